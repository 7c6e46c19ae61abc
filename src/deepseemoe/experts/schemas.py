"""The columns of the maps.

A *pair* is a feature and a routed expert of one layer. Reads: does the router choose the expert
where the feature fires? Writes: does the expert write the feature's direction where it is chosen?
"""

import pyarrow as pa

from deepseemoe.runtime.tables import Column, Columns

READS: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("expert", pa.uint16(), "", "routed expert of that layer"),
    Column("feature", pa.uint32(), "", "feature of the dictionary"),
    Column("n_feature", pa.int64(), "tokens", "tokens on which the feature fires"),
    Column("n_documents", pa.int64(), "documents", "documents in which it fires"),
    Column("n_expert", pa.int64(), "tokens", "tokens that choose the expert"),
    Column("n_both", pa.int64(), "tokens", "tokens on which both happen"),
    Column("expected", pa.float32(), "tokens", "n_both if the two were independent"),
    Column("p_e_given_f", pa.float32(), "share", "P(expert | feature fires)"),
    Column("p_e", pa.float32(), "share", "P(expert); uniform routing gives top_k / n_experts"),
    Column("lift", pa.float32(), "", "p_e_given_f / p_e; 1 is chance"),
    Column("lift_gate", pa.float32(), "", "the same with gate weights in place of choices"),
    Column("lor", pa.float32(), "nats", "log odds ratio of firing and being chosen, 0 is chance"),
    Column("lor_lo", pa.float32(), "nats", "lower bound of its interval, clustered by document"),
    Column("lor_hi", pa.float32(), "nats", "upper bound of its interval, clustered by document"),
    Column("rd", pa.float32(), "share", "P(expert | fires) - P(expert | does not), as SteerMoE"),
    Column("rd_gate", pa.float32(), "weight", "the same with gate weights in place of choices"),
    Column("rho", pa.float32(), "z", "E[z | expert chosen] - E[z | not chosen], as RouterInterp"),
    Column("lor_token", pa.float32(), "nats", "log odds ratio within tokens of one type "
           "(Mantel-Haenszel); NaN where it fires on all occurrences of its tokens"),
    Column("lor_token_se", pa.float32(), "nats", "its standard error, tokens of a type taken as "
           "independent"),
    Column("token_share", pa.float32(), "share", "1 - lor_token / lor: what token identity "
           "explains; 1 where nothing is left to compare"),
    Column("is_token", pa.bool_(), "", "flag T: token identity explains the pair: token_share "
           "above .8, or above .3 with nothing certain left within tokens of one type"),
    Column("beta_sel", pa.float32(), "share", "ridge regression of being chosen on all features: "
           "what one firing of mean strength adds to P(expert), the others held"),
    Column("beta_sel_lo", pa.float32(), "share", "lower bound, jackknife over documents"),
    Column("beta_sel_hi", pa.float32(), "share", "upper bound, jackknife over documents"),
    Column("beta_logit", pa.float32(), "logits", "the same regression of the logit over the mean "
           "expert's; NaN where stores hold no router logits"),
    Column("beta_logit_lo", pa.float32(), "logits", "lower bound, jackknife over documents"),
    Column("beta_logit_hi", pa.float32(), "logits", "upper bound, jackknife over documents"),
    Column("w_map", pa.float32(), "logits", "logit the feature adds by the weights, over the mean "
           "expert's, on a token where it fires; NaN where no path of weights leads to the router"),
    Column("causal_dp", pa.float32(), "share", "fall of P(expert) on tokens where the feature "
           "fires when it is taken out of what this router alone reads"),
    Column("causal_dp_lo", pa.float32(), "share", "lower bound, clustered by document"),
    Column("causal_dp_hi", pa.float32(), "share", "upper bound, clustered by document"),
    Column("causal_dm", pa.float32(), "score", "the same of the margin: the expert's selection "
           "score less the top_k-th largest of the other experts"),
    Column("causal_dm_lo", pa.float32(), "score", "lower bound, clustered by document"),
    Column("causal_dm_hi", pa.float32(), "score", "upper bound, clustered by document"),
    Column("n_causal", pa.int32(), "tokens", "tokens on which that was measured"),
    Column("full_dp", pa.float32(), "share", "the same, with all that follows computed again; NaN "
           "where n_full is 0"),
    Column("full_dp_lo", pa.float32(), "share", "lower bound, clustered by document"),
    Column("full_dp_hi", pa.float32(), "share", "upper bound, clustered by document"),
    Column("full_dm", pa.float32(), "score", "of the margin, all that follows computed again"),
    Column("full_dm_lo", pa.float32(), "score", "lower bound, clustered by document"),
    Column("full_dm_hi", pa.float32(), "score", "upper bound, clustered by document"),
    Column("n_full", pa.int32(), "tokens", "tokens on which that was measured"),
    Column("z_perm", pa.float32(), "deviations", "n_both against permuted documents, square roots"),
    Column("p_perm", pa.float64(), "", "two-sided p of z_perm"),
    Column("n_perm", pa.int32(), "permutations", "permutations that the feature took part in"),
    Column("q", pa.float64(), "", "Benjamini-Hochberg false discovery rate over the layer's pairs"),
    Column("q_all", pa.float64(), "", "false discovery rate down the tree of layers, experts and "
           "pairs (TreeBH at .05)"),
    Column("rep_lor", pa.float32(), "nats", "log odds ratio in the second half of the documents"),
    Column("rep_lor_lo", pa.float32(), "nats", "lower bound, clustered by document"),
    Column("rep_lor_hi", pa.float32(), "nats", "upper bound, clustered by document"),
    Column("rep_sign", pa.bool_(), "", "whether it has the sign that the first half shows"),
    Column("tier", pa.string(), "", "A: q < .05, replicated, regression "
           "and effect agree; B: replicated, and regression or weights; C: q < .05; else empty"),
    Column("rank", pa.uint32(), "", "place among the expert's pairs, from 1: those with "
           "lor > 0 first, then by regression and causal effect together"),
    Column("reason", pa.string(), "", "which columns have no number and "
           "why; empty where none is missing"),
)  # fmt: skip

AGREEMENT: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("expert", pa.uint16(), "", "routed expert of that layer"),
    Column("one", pa.string(), "", "kind of evidence: regression (beta_sel), weights (w_map) or "
           "causal (causal_dp)"),
    Column("other", pa.string(), "", "another kind"),
    Column("n_pairs", pa.int32(), "pairs", "tested pairs of the expert that have both"),
    Column("spearman", pa.float32(), "", "rank correlation over features"),
    Column("sign_agreement", pa.float32(), "share", "pairs on which both have the same sign"),
    Column("jaccard_20", pa.float32(), "", "overlap of the 20 first features of each; null where "
           "there are no more than 20"),
    Column("chance_20", pa.float32(), "", "expected overlap of two random choices of 20"),
    Column("jaccard_50", pa.float32(), "", "overlap of the 50 first features of each"),
    Column("chance_50", pa.float32(), "", "expected overlap of two random choices of 50"),
    Column("reason", pa.string(), "", "why there is no number; empty where there is"),
)  # fmt: skip

WRITES: Columns = (
    Column("layer", pa.uint16(), "", "layer of the expert, in the dictionary's window"),
    Column("expert", pa.uint16(), "", "routed expert of that layer"),
    Column("feature", pa.uint32(), "", "feature of the dictionary"),
    Column("n_both", pa.int64(), "tokens", "tokens with the feature active and the expert chosen"),
    Column("mean_on", pa.float32(), "residual", "mean projection of what the expert adds to the "
           "residual on the feature's unit decoder direction at the layer, over those tokens; NaN "
           "where it writes nothing there"),
    Column("mean_off", pa.float32(), "residual", "the same over tokens that choose the expert "
           "while the feature is silent"),
    Column("contrast", pa.float32(), "residual", "mean_on - mean_off"),
    Column("contrast_lo", pa.float32(), "residual", "lower bound, clustered by document"),
    Column("contrast_hi", pa.float32(), "residual", "upper bound, clustered by document"),
    Column("share", pa.float32(), "share", "of what the layer's routed experts write along the "
           "direction where the feature fires, this one's part over the sum of sizes: -1 to 1"),
    Column("expert_causal", pa.float32(), "z", "fall of the feature's activation, before its gate, "
           "when what the expert adds is taken out of all that the feature reads further down, "
           "over the same tokens; routing fixed, blocks in between frozen; NaN where it reads none "
           "of it"),
    Column("expert_causal_lo", pa.float32(), "z", "lower bound, clustered by document"),
    Column("expert_causal_hi", pa.float32(), "z", "upper bound, clustered by document"),
    Column("n_causal", pa.int64(), "tokens", "tokens on which that was measured"),
    Column("reason", pa.string(), "", "why a number is missing; empty where none is"),
)  # fmt: skip

EFFECTS: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("feature", pa.uint32(), "", "feature of the dictionary"),
    Column("expert", pa.uint16(), "", "routed expert of that layer"),
    Column("n_causal", pa.int32(), "tokens", "firing tokens, at equal distances among all, on "
           "which the feature is taken out of what the router reads"),
    Column("causal_dp", pa.float32(), "share", "P(expert) on tokens where the feature fires, less "
           "that without the feature: all else upstream as it was, the router decides again"),
    Column("causal_dp_lo", pa.float32(), "share", "lower bound, clustered by document"),
    Column("causal_dp_hi", pa.float32(), "share", "upper bound, clustered by document"),
    Column("causal_dm", pa.float32(), "score", "the same of the expert's margin: its selection "
           "score less the top_k-th best of the others"),
    Column("causal_dm_lo", pa.float32(), "score", "lower bound, clustered by document"),
    Column("causal_dm_hi", pa.float32(), "score", "upper bound, clustered by document"),
    Column("n_full", pa.int32(), "tokens", "firing tokens on which the feature is taken out of the "
           "running model: attention and all later layers see it gone"),
    Column("full_dp", pa.float32(), "share", "as causal_dp, in the running model"),
    Column("full_dp_lo", pa.float32(), "share", "lower bound, clustered by document"),
    Column("full_dp_hi", pa.float32(), "share", "upper bound, clustered by document"),
    Column("full_dm", pa.float32(), "score", "as causal_dm, in the running model"),
    Column("full_dm_lo", pa.float32(), "score", "lower bound, clustered by document"),
    Column("full_dm_hi", pa.float32(), "score", "upper bound, clustered by document"),
    Column("w_map", pa.float32(), "logits", "logit the feature adds by the weights, over the mean "
           "expert's, on a token where it fires; NaN where no path of weights leads to the router"),
    Column("reason", pa.string(), "", "why a number is missing; empty where none is"),
)  # fmt: skip

SHARED: Columns = (
    Column("layer", pa.uint16(), "", "layer of the shared experts"),
    Column("kind", pa.string(), "", "document, token (mean part of the block's output over their "
           "tokens) or feature (contrast of what is written along its decoder direction)"),
    Column("item", pa.uint32(), "", "doc_id, token id or feature"),
    Column("n_tokens", pa.int64(), "tokens", "of the document, of the token type, or on which the "
           "feature fires"),
    Column("value", pa.float64(), "", "document, token: mean of |shared| / (|shared| + |routed|); "
           "feature: mean projection where it fires less that where not, residual units"),
    Column("lo", pa.float64(), "", "lower bound of its 95 % interval; tokens of a type taken as "
           "independent; null for documents and single tokens"),
    Column("hi", pa.float64(), "", "upper bound"),
)  # fmt: skip
