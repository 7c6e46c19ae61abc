"""The rows of `load` and `maps`: the same counts of every run, as shares that compare."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepseemoe.compare.finished import Finished, Map
from deepseemoe.compare.layers import Router, read_routers
from deepseemoe.runtime.tables import read_table

Row = dict[str, Any]
MAX_Q = 0.05
"""A feature calls an expert below this q, where lor > 0."""


def load_rows(run: Finished) -> Iterator[Row]:
    """Yield the load of every expert of a run."""
    for layer, router in read_routers(run).items():
        n_experts = router.share_E.size
        place_E = np.argsort(np.argsort(router.share_E, kind="stable")) / max(n_experts - 1, 1)
        for expert, share in enumerate(router.share_E.tolist()):
            yield {
                "run": run.label, "layer": layer, "expert": expert, "n_experts": n_experts,
                "top_k": router.top_k, "share": share,
                "load": share * n_experts / router.top_k, "place": float(place_E[expert]),
            }  # fmt: skip


def map_rows(run: Finished) -> Iterator[Row]:
    """Yield a row for each layer of each map of a run."""
    routers = read_routers(run)
    for one in run.maps:
        path = one.folder.relative_to(run.folder) / "reads.parquet"
        run.table(path, "layer", "expert", "feature", "q", "lor")
        table = read_table(run.folder / path)
        for layer in pc.unique(table["layer"]).to_pylist():
            own = table.filter(pc.equal(table["layer"], layer))
            yield _row(run.label, one, layer, own, routers[layer])


def _row(label: str, one: Map, layer: int, tested: pa.Table, router: Router) -> Row:
    called = tested.filter((pc.field("q") < MAX_Q) & (pc.field("lor") > 0))
    n_features, n_experts = pc.count_distinct(tested["feature"]).as_py(), router.share_E.size
    return {
        "run": label, "dictionary": one.dictionary, "window": one.window, "layer": layer,
        "n_experts": n_experts, "n_features": n_features, "n_tested": len(tested),
        "called_share": len(called) / len(tested),
        **{f"{tier.lower()}_share": _share(tested, "tier", tier) for tier in "ABC"},
        "token_share": _share(called, "is_token", True),
        "median_lor": float(np.median(called["lor"])) if len(called) else None,
        "features_called": pc.count_distinct(called["feature"]).as_py() / n_features,
        "experts_called": pc.count_distinct(called["expert"]).as_py() / n_experts,
    }  # fmt: skip


def _share(table: pa.Table, column: str, value: Any) -> float | None:
    """Return the share of rows with a value; None without the column or without rows."""
    if column not in table.column_names or not len(table):
        return None
    return pc.sum(pc.equal(table[column], value)).as_py() / len(table)
