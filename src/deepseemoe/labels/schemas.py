"""Columns of the tables that this stage writes."""

import pyarrow as pa

from deepseemoe.runtime.tables import Column, Columns

FEATURES: Columns = (
    Column("feature", pa.uint32(), "id", "feature of the dictionary that fires often enough"),
    Column("label", pa.string(), "text", "description of the feature"),
    Column(
        "kind",
        pa.string(),
        "name",
        "offline: kind of the rule, as token or after, or unclear; of a language model: model, or "
        "failed where it gave no description",
    ),
    Column(
        "status",
        pa.string(),
        "name",
        "labelled; unclear: no rule does well on held-out documents; few_contexts: too few to "
        "describe or judge; budget: it ended before; empty, refused, unreadable, repeated, "
        "other_language: an answer of no use; rejected: the server takes the request for wrong; "
        "server: it kept failing",
    ),
    Column("reason", pa.string(), "text", "why it is not labelled; empty where it is"),
    Column("detail", pa.string(), "text", "the executable rule as JSON, or the model's reasons"),
    Column("n_active", pa.int64(), "tokens", "valid test tokens on which the feature fires"),
    Column("best_tier", pa.string(), "name", "best tier of the feature's pairs in reads.parquet"),
    Column("labeller", pa.string(), "name", "who describes; rules are no language model"),
)

SCORES: Columns = (
    Column("feature", pa.uint32(), "id", "feature that the description is of"),
    Column(
        "scorer",
        pa.string(),
        "name",
        "of rules: execution (run on all held-out tokens) and hard (on the feature's own tokens, "
        "where it is on or off); of a language model: see labels.scorers",
    ),
    Column("n_positive", pa.int64(), "items", "judged tokens or contexts with the feature"),
    Column("n_negative", pa.int64(), "items", "judged tokens or contexts without it"),
    Column("balanced_accuracy", pa.float64(), "share", "0.5 is chance; null: nothing to judge by"),
    Column("lo", pa.float64(), "share", "lower end of its 95 % interval over documents"),
    Column("hi", pa.float64(), "share", "upper end"),
    Column(
        "null",
        pa.float64(),
        "share",
        "mean balanced accuracy by this scorer of descriptions swapped among features of like "
        "frequency; 0.5 for intruder, which sees no description; null where it was not measured",
    ),
    Column("lift", pa.float64(), "share", "balanced_accuracy - null: its worth"),
    Column("lift_lo", pa.float64(), "share", "lower end of its 95 % interval"),
    Column("lift_hi", pa.float64(), "share", "upper end"),
    Column(
        "swapped",
        pa.float64(),
        "share",
        "what another's description scored on this feature; null where it was not asked",
    ),
    Column("auroc", pa.float64(), "share", "of embedding: area under the curve; else null"),
    Column("correlation", pa.float64(), "", "of simulation: predicted with true activations"),
    Column("n_failed", pa.int64(), "items", "items without a readable verdict; in no count above"),
    Column(
        "status",
        pa.string(),
        "name",
        "scored; few_contexts: none of one kind; failed: no readable verdict at all",
    ),
    Column("reason", pa.string(), "text", "why items failed or there is no score"),
)

EXPERTS: Columns = (
    Column("layer", pa.int32(), "layer", "layer of the router, or of the shared experts"),
    Column("expert", pa.int32(), "id", "routed expert of that layer; 0 for the shared ones"),
    Column("is_shared", pa.bool_(), "", "all shared experts of the layer together, which every "
           "token passes"),
    Column("label", pa.string(), "text", "what is sent to it, the features that call it and those "
           "that it writes"),
    Column("kind", pa.string(), "name", "what the label rests on: the kind of the rule, `tables` "
           "without one, `model`, `shared`, or `unclear` where no preference was found"),
    Column("status", pa.string(), "name", "labelled; unclear: nothing stands out on held-out text; "
           "few_contexts; budget; or what became of the question to the language model"),
    Column("reason", pa.string(), "text", "why it is not labelled; empty where it is"),
    Column("detail", pa.string(), "text", "the executable rule as JSON, or the model's reasons"),
    Column("made_for", pa.string(), "name", "its domain by model.expert_domains; null if not told"),
    Column("share", pa.float64(), "share", "share of the test tokens that choose the expert"),
    Column("top_domain", pa.string(), "name", "domain with the highest lift; null without domains"),
    Column("domain_lift", pa.float64(), "ratio", "share of that domain over the expert's share; of "
           "shared experts, of their part of the output"),
    Column("features", pa.list_(pa.uint32()), "id", "features that call it, the first of the map's "
           "order; of shared experts, that they write"),
    Column("tier", pa.string(), "name", "tier of these features: the best that the expert has any "
           "of; empty without"),
    Column("tokens", pa.list_(pa.string()), "text", "its tokens of highest lift, highest first"),
    Column("n_features", pa.int32(), "features", "its features of that tier, 20 at most"),
    Column("n_clusters", pa.int32(), "clusters", "groups among them by decoder direction (average "
           "linkage, mean cosine above 0.4)"),
    Column("clusters_by_chance", pa.float64(), "clusters", "groups among as many random features "
           "of the dictionary, mean of 20 draws"),
    Column("labeller", pa.string(), "name", "who describes; rules are no language model"),
)  # fmt: skip

EXPERT_SCORES: Columns = (
    Column("layer", pa.int32(), "layer", "layer of the router"),
    Column("expert", pa.int32(), "id", "routed expert of that layer"),
    Column("scorer", pa.string(), "name", "what predicts the routing of held-out tokens: rule (the "
           "executable rule), features (any of those that call it fires), unigram (look-up of the "
           "token), always (every token), routing (a language model by the description)"),
    Column("n_positive", pa.int64(), "tokens", "judged tokens that were sent to the expert"),
    Column("n_negative", pa.int64(), "tokens", "judged tokens that were not"),
    Column("precision", pa.float64(), "share", "of tokens told yes, those sent to it; null where "
           "none is"),
    Column("recall", pa.float64(), "share", "of tokens sent to it, those told yes"),
    Column("f1", pa.float64(), "share", "harmonic mean of both; its height depends on how rare the "
           "expert is: compare it with `always`"),
    Column("f1_lo", pa.float64(), "share", "lower end of its 95 % interval over documents"),
    Column("f1_hi", pa.float64(), "share", "upper end"),
    Column("f1_15_85", pa.float64(), "share", "F1 that the same rates give on 15 tokens of the "
           "expert among 85 others"),
    Column("f1_15_85_lo", pa.float64(), "share", "lower end of its 95 % interval"),
    Column("f1_15_85_hi", pa.float64(), "share", "upper end"),
    Column("balanced_accuracy", pa.float64(), "share", "mean of the shares of both that are told "
           "rightly; 0.5 says nothing"),
    Column("balanced_accuracy_lo", pa.float64(), "share", "lower end of its 95 % interval"),
    Column("balanced_accuracy_hi", pa.float64(), "share", "upper end"),
    Column("null", pa.float64(), "share", "balanced accuracy of the descriptions of the layer's "
           "other experts on the same tokens"),
    Column("lift", pa.float64(), "share", "balanced_accuracy - null"),
    Column("lift_lo", pa.float64(), "share", "lower end of its 95 % interval, token by token"),
    Column("lift_hi", pa.float64(), "share", "upper end"),
    Column("n_failed", pa.int64(), "tokens", "without a readable verdict; in no count above"),
    Column("status", pa.string(), "name", "scored; few_contexts; no_rule; no_features; or what "
           "became of the questions to the language model"),
    Column("reason", pa.string(), "text", "why it is not scored, or on what; empty else"),
)  # fmt: skip
