"""The columns of the routing tables.

All count valid tokens of the test split alone: the first token of a segment (position 0, where the
tokenizer's BOS stands) and rows of outlying norm are left out. A *lift* of 1 is independence.

Columns `_lo` and `_hi` are the 2.5 % and 97.5 % quantiles of draws of documents. Bits cannot be
negative, so noise makes some: `chance_bits` are those of shuffled data, and what is above chance is
the difference, which may be below 0. A number that is missing is NaN and has its reason beside it.
"""

import pyarrow as pa

from deepseemoe.runtime.tables import Column, Columns


def _ends(name: str, unit: str, of: str = "") -> Columns:
    """Return the two ends of an interval."""
    return (
        Column(f"{name}_lo", pa.float64(), unit, f"lower end of the interval of {of or name}"),
        Column(f"{name}_hi", pa.float64(), unit, "upper end"),
    )


def _bits(what: str, null: str) -> Columns:
    """Return what is kept of an information in bits and its null."""
    return (
        Column("bits", pa.float64(), "bits", what),
        Column("chance_bits", pa.float64(), "bits", f"its mean {null}"),
        Column("bits_above_chance", pa.float64(), "bits", "bits - chance_bits"),
        *_ends("bits_above_chance", "bits"),
        Column("p", pa.float64(), "", f"share of draws {null} that reach bits, the data included"),
    )


LOAD: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("expert", pa.uint16(), "", "routed expert of that layer"),
    Column("n_tokens", pa.int64(), "tokens", "tokens that choose the expert"),
    Column("share", pa.float64(), "share", "of all tokens; the shares of a layer add up to top_k"),
    Column("share_lo", pa.float64(), "share", "lower end of its interval; NaN for one document"),
    Column("share_hi", pa.float64(), "share", "upper end"),
    Column("weight_share", pa.float64(), "share", "of all gate weight; adds up to 1"),
    Column("load", pa.float64(), "", "share / (top_k / n_experts); 1 is a uniform load"),
)

LOAD_LAYERS: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("n_tokens", pa.int64(), "tokens", "valid tokens"),
    Column("n_experts", pa.int32(), "", "routed experts"),
    Column("top_k", pa.int32(), "", "experts of a token"),
    Column("load_bits", pa.float64(), "bits", "entropy of the shares of all choices"),
    *_ends("load_bits", "bits"),
    Column("chance_load_bits", pa.float64(), "bits", "log2 n_experts, of a uniform load"),
    Column("effective_experts", pa.float64(), "experts", "2^load_bits: as many used evenly"),
    Column("gate_bits", pa.float64(), "bits", "mean over tokens of the entropy of gate weights"),
    *_ends("gate_bits", "bits"),
    Column("max_gate_bits", pa.float64(), "bits", "log2 top_k, of equal weights"),
    Column("router_bits", pa.float64(), "bits", "mean over tokens of the entropy of the softmax of "
           "all router logits; NaN where they are not stored"),
    *_ends("router_bits", "bits"),
    Column("reason", pa.string(), "", "why a number is missing; empty if none is"),
)  # fmt: skip

COACTIVATION: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("expert_a", pa.uint16(), "", "routed expert"),
    Column("expert_b", pa.uint16(), "", "another expert of the same layer"),
    Column("n_tokens", pa.int64(), "tokens", "tokens that choose both"),
    Column("p_b_given_a", pa.float64(), "share", "of the tokens of a, those that choose b too"),
    Column("lift", pa.float64(), "", "p_b_given_a / share of b; as a token takes top_k experts, "
           "a uniform random router has (top_k - 1) / top_k * n_experts / (n_experts - 1)"),
    Column("lift_lo", pa.float64(), "", "lower end, drawing 64 groups of documents; NaN for one"),
    Column("lift_hi", pa.float64(), "", "upper end"),
    Column("chance_lift", pa.float64(), "", "of a router that has the load of every expert and "
           "knows no pairs: sets of top_k distinct experts with the most entropy"),
    Column("excess", pa.float64(), "", "lift / chance_lift; NaN where chance_lift is 0 (top_k 1)"),
)  # fmt: skip

VOCABULARY: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("expert", pa.uint16(), "", "routed expert of that layer"),
    Column("token_id", pa.uint32(), "", "token that the router reads, not the one it predicts"),
    Column("token", pa.string(), "", "its text"),
    Column("n_tokens", pa.int64(), "tokens", "occurrences that choose the expert; never 0"),
    Column("p_expert_given_token", pa.float64(), "share", "of the token's occurrences"),
    Column("lift", pa.float64(), "", "p_expert_given_token / share of the expert"),
)

VOCABULARY_NEXT: Columns = (
    *VOCABULARY[:2],
    Column("token_id", pa.uint32(), "", "token that follows in the segment: what is predicted"),
    *VOCABULARY[3:],
)

VOCABULARY_LAYERS: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("side", pa.string(), "", "input: tokens that are read; next: those that follow"),
    Column("n_types", pa.int64(), "", "tokens of min_token_count occurrences or more"),
    Column("n_tokens", pa.int64(), "tokens", "their occurrences"),
    Column("bits", pa.float64(), "bits", "I(token; expert), of one of a token's top_k at random"),
    Column("chance_bits", pa.float64(), "bits", "the same of shuffled tokens"),
    Column("bits_above_chance", pa.float64(), "bits", "bits - chance_bits"),
    Column("bits_above_chance_lo", pa.float64(), "bits", "1.96 standard errors below, of 20 draws "
           "of documents"),
    Column("bits_above_chance_hi", pa.float64(), "bits", "as much above"),
    Column("top_share", pa.float64(), "share", "mean over types of the share of their occurrences "
           "that choose their favourite expert"),
    Column("chance_top_share", pa.float64(), "share", "the same of shuffled tokens"),
    Column("top_share_above_chance", pa.float64(), "share", "the difference"),
    Column("top_share_above_chance_lo", pa.float64(), "share", "1.96 standard errors below"),
    Column("top_share_above_chance_hi", pa.float64(), "share", "as much above"),
    Column("reason", pa.string(), "", "why a number is missing; empty if none is"),
)  # fmt: skip

DOMAINS: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("expert", pa.uint16(), "", "routed expert of that layer"),
    Column("domain", pa.string(), "", "label of the documents"),
    Column("n_tokens", pa.int64(), "tokens", "tokens of the domain that choose the expert"),
    Column("share", pa.float64(), "share", "of the domain's tokens"),
    Column("lift", pa.float64(), "", "share / share of the expert over all tokens"),
    Column("share_lo", pa.float64(), "share", "2.5 % quantile of draws of documents; NaN for one"),
    Column("share_hi", pa.float64(), "share", "97.5 % quantile of draws of documents"),
)

_LABELS = "with the documents' domains permuted"

SPECIALISATION: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("n_domains", pa.int32(), "", "domains with tokens"),
    Column("n_documents", pa.int64(), "documents", "documents with tokens"),
    *_bits("I(domain; expert), of one of a token's top_k experts at random", _LABELS),
    Column("share_of_entropy", pa.float64(), "share", "bits_above_chance over the lesser of the "
           "entropies of domain and expert: does not grow with the number of either"),
    Column("reason", pa.string(), "", "why a number is missing; empty if none is"),
)  # fmt: skip

DIVERGENCE: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("domain_a", pa.string(), "", "label of documents"),
    Column("domain_b", pa.string(), "", "another one, later in the order of names"),
    Column("n_documents_a", pa.int64(), "documents", "documents of a"),
    Column("n_documents_b", pa.int64(), "documents", "documents of b"),
    *_bits("Jensen-Shannon divergence (base 2, not its root) of the domains' shares of experts",
           _LABELS + ", those of the two domains alone"),
    Column("reason", pa.string(), "", "why a number is missing; empty if none is"),
)  # fmt: skip

RELEVANCE: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("domain", pa.string(), "", "label of the documents: the task"),
    Column("expert", pa.uint16(), "", "routed expert of that layer"),
    Column("n_tokens", pa.int64(), "tokens", "valid tokens of the domain"),
    Column("token_score", pa.float64(), "share", "ESFT: mean of 1/top_k where chosen; "
           "adds up to 1 over a layer, chance is 1 / n_experts"),
    Column("token_lo", pa.float64(), "share", "lower end; NaN for one document"),
    Column("token_hi", pa.float64(), "share", "upper end"),
    Column("gate_score", pa.float64(), "weight", "ESFT: mean gate weight, 0 where not chosen"),
    Column("gate_lo", pa.float64(), "weight", "lower end; NaN for one document"),
    Column("gate_hi", pa.float64(), "weight", "upper end"),
    Column("by_token", pa.bool_(), "", "chosen by token scores: the best, of 4 decimals, that add "
           "up to routing.token_top_p"),
    Column("by_gate", pa.bool_(), "", "chosen by gate scores, up to routing.gate_top_p"),
)  # fmt: skip

PATHS: Columns = (
    Column("layer", pa.uint16(), "", "layer of the first router"),
    Column("later_layer", pa.uint16(), "", "the next layer with experts"),
    Column("expert", pa.uint16(), "", "routed expert of layer"),
    Column("later_expert", pa.uint16(), "", "routed expert of later_layer"),
    Column("n_tokens", pa.int64(), "tokens", "tokens that choose both, at whatever rank"),
    Column("p_later_given_first", pa.float64(), "share", "of the tokens of the first"),
    Column("lift", pa.float64(), "", "p_later_given_first / share of the later expert"),
    Column("lift_lo", pa.float64(), "", "lower end, drawing 64 groups of documents; NaN for one"),
    Column("lift_hi", pa.float64(), "", "upper end"),
)

PATHS_LAYERS: Columns = (
    Column("layer", pa.uint16(), "", "layer of the first router"),
    Column("later_layer", pa.uint16(), "", "the next layer with experts"),
    Column("n_tokens", pa.int64(), "tokens", "valid tokens"),
    *_bits("I(expert; later expert), of one of top_k at random in each",
           "with the later layer turned against the first along the text"),
    Column("reason", pa.string(), "", "why a number is missing; empty if none is"),
)  # fmt: skip

PATHS_TOP: Columns = (
    Column("rank", pa.uint32(), "", "1 is the path of most tokens over these three layers"),
    *(
        Column(f"{name}_{place}", pa.uint16(), "", f"{meaning} of step {place}")
        for place in (1, 2, 3)
        for name, meaning in (("layer", "layer"), ("expert", "routed expert"))
    ),
    Column("n_tokens", pa.int64(), "tokens", "tokens that choose all three"),
    Column("share", pa.float64(), "share", "of all tokens"),
    Column("lift", pa.float64(), "", "n_tokens over that of three independent layers"),
    Column("markov_lift", pa.float64(), "", "over a chain that forgets layer_1 at layer_2"),
)

CENTROIDS: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("expert", pa.uint16(), "", "routed expert of that layer"),
    Column("n_tokens", pa.int64(), "tokens", "of the sample, that choose the expert"),
    Column("cosine", pa.float64(), "", "of the router's row and the mean input routed to it"),
    Column("centred_cosine", pa.float64(), "", "the same, less the mean of all inputs"),
    Column("chance_sd", pa.float64(), "", "1 / sqrt(d_model): a random direction's cosine is 0 "
           "with this standard deviation"),
    Column("reason", pa.string(), "", "why a number is missing; empty if none is"),
)  # fmt: skip

CENTROIDS_LAYERS: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("n_tokens", pa.int64(), "tokens", "of the sample"),
    Column("nearest", pa.float64(), "share", "of tokens whose first expert has the nearest mean; "
           "means of one half, tokens of the other"),
    Column("chance_nearest", pa.float64(), "share", "the same with experts shuffled among tokens"),
    Column("ari", pa.float64(), "", "adjusted Rand index of first experts and k-means of inputs; "
           "0 is chance"),
    Column("span_share", pa.float64(), "share", "of the inputs' variance in the span of the rows"),
    Column("chance_span_share", pa.float64(), "share", "rank of the rows / d_model"),
)  # fmt: skip

SATURATION: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("step", pa.int64(), "steps", "of the checkpoint"),
    Column("trained_share", pa.float64(), "share", "of training done by then"),
    Column("k", pa.int32(), "", "experts of a token that are compared: 1, or top_k"),
    Column("n_tokens", pa.int64(), "tokens", "of the sample"),
    Column("saturation", pa.float64(), "share", "OLMoE's equation 5: of a token's final experts "
           "those it has at the checkpoint"),
    *_ends("saturation", "share"),
    Column("chance", pa.float64(), "share", "k / n_experts, of unrelated even routers"),
    Column("chance_by_load", pa.float64(), "share", "of unrelated routers with the loads of both"),
)  # fmt: skip
