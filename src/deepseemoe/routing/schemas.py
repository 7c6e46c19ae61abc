"""The columns of the routing tables.

All count valid tokens of the test split alone: the first token of a segment (position 0, where the
tokenizer's BOS stands) and rows of outlying norm are left out. A *lift* of 1 is chance.
"""

import pyarrow as pa

from deepseemoe.runtime.tables import Column, Columns

LOAD: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("expert", pa.uint16(), "", "routed expert of that layer"),
    Column("n_tokens", pa.int64(), "tokens", "tokens that choose the expert"),
    Column("share", pa.float64(), "share", "of all tokens; the shares of a layer add up to top_k"),
    Column("weight_share", pa.float64(), "share", "of all gate weight; adds up to 1"),
    Column("load", pa.float64(), "", "share / (top_k / n_experts); 1 is a uniform load"),
)

COACTIVATION: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("expert_a", pa.uint16(), "", "routed expert"),
    Column("expert_b", pa.uint16(), "", "another expert of the same layer"),
    Column("n_tokens", pa.int64(), "tokens", "tokens that choose both"),
    Column("p_b_given_a", pa.float64(), "share", "of the tokens of a, those that choose b too"),
    Column("lift", pa.float64(), "", "p_b_given_a / share of b; as a token takes top_k experts, "
           "a uniform random router has (top_k - 1) / top_k * n_experts / (n_experts - 1)"),
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
