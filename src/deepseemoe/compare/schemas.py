"""Columns of the tables of a comparison; `run` is the label of a run in each."""

import pyarrow as pa

from deepseemoe.runtime.tables import Column, Columns

_RUN = Column("run", pa.string(), "name", "label of the run")
_LAYER = Column("layer", pa.int32(), "layer", "layer of the router; null: mean over layers")
_LO = Column("lo", pa.float64(), "", "lower end of its 95 % interval; null where there is none")
_HI = Column("hi", pa.float64(), "", "upper end")
_REASON = Column("reason", pa.string(), "", "why the number is missing; empty where it is not")

LOAD: Columns = (
    _RUN,
    Column("layer", pa.int32(), "layer", "layer of the router"),
    Column("expert", pa.int32(), "id", "routed expert of that layer"),
    Column("n_experts", pa.int32(), "experts", "routed experts of the layer"),
    Column("top_k", pa.int32(), "experts", "routed experts that a token chooses"),
    Column("share", pa.float64(), "share", "of all tokens; adds up to top_k"),
    Column("load", pa.float64(), "", "share / (top_k / n_experts); 1 is a uniform load"),
    Column("place", pa.float64(), "share", "place in the layer by rising load, 0 to 1"),
)

SPECIALISATION: Columns = (
    _RUN,
    Column("measure", pa.string(), "name", "what was measured; docs/compare.md defines each"),
    Column("dictionary", pa.string(), "name", "of measures over features; null for the others"),
    Column("window", pa.string(), "", "of measures over features"),
    _LAYER,
    Column("value", pa.float64(), "share", "chance taken off: a router that does not look is at 0"),
    _LO,
    _HI,
    Column("chance", pa.float64(), "share", "what counting alone gave, already taken off"),
    Column("n_units", pa.int64(), "", "domains, token types or features that it is a mean over"),
    _REASON,
)

MAPS: Columns = (
    _RUN,
    Column("dictionary", pa.string(), "name", "dictionary of the map"),
    Column("window", pa.string(), "", "its window"),
    Column("layer", pa.int32(), "layer", "layer of the router"),
    Column("n_experts", pa.int32(), "experts", "routed experts of the layer"),
    Column("n_features", pa.int64(), "features", "features with a tested pair"),
    Column("n_tested", pa.int64(), "pairs", "tested pairs"),
    Column("called_share", pa.float64(), "share", "of tested pairs: q < .05 and lor > 0"),
    Column("a_share", pa.float64(), "share", "of tested pairs: tier A; null: a map without tiers"),
    Column("b_share", pa.float64(), "share", "of tested pairs: tier B; null: a map without tiers"),
    Column("c_share", pa.float64(), "share", "of tested pairs: tier C; null: a map without tiers"),
    Column("token_share", pa.float64(), "share", "of called pairs: explained by token identity; "
           "null: a map without the flag"),
    Column("median_lor", pa.float64(), "nats", "median log odds ratio of called pairs; null: none"),
    Column("features_called", pa.float64(), "share", "of the features, those that call an expert"),
    Column("experts_called", pa.float64(), "share", "of the experts, those that a feature calls"),
)  # fmt: skip

RECOVERY: Columns = (
    _RUN,
    Column("source", pa.string(), "name", "domains: where tokens of a domain go; reads: which "
           "experts features of a domain call"),
    Column("dictionary", pa.string(), "name", "of reads; null for domains"),
    Column("window", pa.string(), "", "of reads"),
    Column("measure", pa.string(), "name", "accuracy: experts whose first domain is the one they "
           "were made for; enrichment: log2 lift (reads: log odds) in the own domain less the mean "
           "of the others"),
    _LAYER,
    Column("value", pa.float64(), "", "share for accuracy; bits or nats for enrichment"),
    _LO,
    _HI,
    Column("chance", pa.float64(), "", "mean over permutations of what experts were made for"),
    Column("p_perm", pa.float64(), "", "share of permutations that do as well, one-sided"),
    Column("n_permutations", pa.int64(), "", "permutations, the given order among them"),
    Column("n_experts", pa.int32(), "experts", "experts whose domain the corpus has"),
    Column("n_units", pa.int64(), "", "domains, or features that stand for one"),
    _REASON,
)  # fmt: skip

DICTIONARIES: Columns = (
    _RUN,
    Column("dictionary", pa.string(), "name", "dictionary"),
    Column("window", pa.string(), "", "its window"),
    Column("fvu", pa.float64(), "share", "variance that it misses, mean over what it writes"),
    Column("l0", pa.float64(), "features", "active features a token"),
    Column("dead_fraction", pa.float64(), "share", "features that never fire on the test text"),
    Column("loss_recovered", pa.float64(), "share", "of the loss without what it reconstructs; "
           "means little for a model with random weights, whose loss is chance"),
    _REASON,
)  # fmt: skip

LABELS: Columns = (
    _RUN,
    Column("dictionary", pa.string(), "name", "dictionary whose features are described"),
    Column("window", pa.string(), "", "its window"),
    Column("scorer", pa.string(), "name", "how descriptions were scored; null: they were not"),
    Column("n_features", pa.int64(), "features", "features that fire often enough"),
    Column("described_share", pa.float64(), "share", "of these, those whose description stands"),
    Column("n_scored", pa.int64(), "features", "features with a score"),
    Column("balanced_accuracy", pa.float64(), "share", "median over scored features; 0.5 is "
           "chance"),
    Column("lift", pa.float64(), "share", "median of what is above the run's null of permuted "
           "descriptions; null: a run without it"),
    _REASON,
)  # fmt: skip

CONTRAST: Columns = (
    Column("measure", pa.string(), "name", "of specialisation, mean over layers"),
    Column("of", pa.string(), "name", "a run, or `separate`: mean of runs with separate experts"),
    Column("minus", pa.string(), "name", "another run, or `joint`"),
    Column("value", pa.float64(), "share", "difference"),
    _LO,
    _HI,
    Column("n_of", pa.int64(), "runs", "runs on the first side"),
    Column("n_minus", pa.int64(), "runs", "runs on the second side"),
)
