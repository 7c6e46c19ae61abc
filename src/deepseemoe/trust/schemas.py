"""The columns of the certificate."""

import pyarrow as pa

from deepseemoe.runtime.tables import Column, Columns

PLANTED: Columns = (
    Column("family", pa.string(), "", "generator of the world: sums or topics"),
    Column("preset", pa.string(), "", "easy, realistic or hard"),
    Column("seed", pa.int64(), "", "seed of the world"),
    Column("order", pa.string(), "", "column that tested pairs are ordered by, `default` for the "
           "map's own; empty where the measure is of the map as a whole"),
    Column("measure", pa.string(), "", "auroc and ap (average precision) over tested pairs, "
           "ap_by_expert, top1_expert and top1_feature (share whose first pair is planted); of the "
           "map as a whole: shares of found pairs, tiers and token flags (docs/trust.md)"),
    Column("value", pa.float64(), "", "NaN where no pair is of the kind, as a tier without pairs"),
)  # fmt: skip

NULLS: Columns = (
    Column("source", pa.string(), "", "planted: generated worlds; run: this run's own data"),
    Column("null", pa.string(), "", "which world, or which tie of the run's data was cut"),
    Column("dictionary", pa.string(), "", "dictionary of the run; empty for planted ones"),
    Column("window", pa.string(), "", "its window; empty for planted ones"),
    Column("seed", pa.int64(), "", "seed of the world, or number of the draw"),
    Column("statistic", pa.string(), "", "what may find something: p_perm, an interval, q, tier"),
    Column("nominal", pa.float64(), "share", "share that should be found"),
    Column("n_pairs", pa.int64(), "pairs", "pairs that were tested"),
    Column("rate", pa.float64(), "share", "share that was found"),
)  # fmt: skip
