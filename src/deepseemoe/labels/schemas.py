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
        "offline: token, previous, bigram, after, shape, domain, position, or unclear; of a "
        "language model: model, or failed where it gave no readable answer",
    ),
    Column("detail", pa.string(), "text", "the executable rule as JSON, or the model's reasons"),
    Column("n_active", pa.int64(), "tokens", "valid test tokens on which the feature fires"),
    Column("labeller", pa.string(), "name", "who describes; rules are no language model"),
)

SCORES: Columns = (
    Column("feature", pa.uint32(), "id", "feature that the description is of"),
    Column(
        "scorer",
        pa.string(),
        "name",
        "execution: the rule is run on all held-out tokens; detection: a language model judges "
        "held-out contexts",
    ),
    Column("n_positive", pa.int64(), "items", "judged tokens or contexts with the feature"),
    Column("n_negative", pa.int64(), "items", "judged tokens or contexts without it"),
    Column("balanced_accuracy", pa.float64(), "share", "0.5 is chance; null: nothing to judge by"),
    Column("lo", pa.float64(), "share", "lower end of its 95 % interval over documents"),
    Column("hi", pa.float64(), "share", "upper end"),
    Column(
        "n_failed", pa.int64(), "items", "contexts without a readable verdict; in no count above"
    ),
)

EXPERTS: Columns = (
    Column("layer", pa.int32(), "layer", "layer of the router"),
    Column("expert", pa.int32(), "id", "routed expert of that layer"),
    Column("label", pa.string(), "text", "its domain, its tokens and the features that call it"),
    Column("made_for", pa.string(), "name", "its domain by model.expert_domains; null if not told"),
    Column("share", pa.float64(), "share", "share of the test tokens that choose the expert"),
    Column("top_domain", pa.string(), "name", "domain with the highest lift; null without domains"),
    Column("domain_lift", pa.float64(), "ratio", "share of that domain over the expert's share"),
    Column("features", pa.list_(pa.uint32()), "id", "features that call it, the strongest first"),
    Column(
        "tokens", pa.list_(pa.string()), "text", "its tokens of highest lift, the highest first"
    ),
)
