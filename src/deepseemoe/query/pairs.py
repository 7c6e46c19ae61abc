"""Rows of the maps for people: the columns that a map has, in the order of what to look at first.

Maps of other versions have more or fewer columns; what is not there is not shown.
"""

import pyarrow as pa

from deepseemoe.names import FeatureId, Window
from deepseemoe.query.database import Run

READS = (
    "lor", "lor_lo", "lor_hi", "lift", "n_both", "q", "beta_sel", "beta_sel_lo", "beta_sel_hi",
    "causal_dp", "causal_dp_lo", "causal_dp_hi", "full_dp", "full_dp_lo", "full_dp_hi",
    "token_share", "rep_lor", "rep_lor_lo", "rep_lor_hi",
)  # fmt: skip
"""Association, its support and error rate, joint model, cause, token identity, replication."""

WRITES = (
    "contrast", "contrast_lo", "contrast_hi", "share", "n_both",
    "expert_causal", "expert_causal_lo", "expert_causal_hi",
)  # fmt: skip

_TIER = "nullif(concat_ws(' ', nullif(tier, ''), CASE WHEN is_token THEN 'T' END), '')"


def known(run: Run, view: str, wanted: tuple[str, ...]) -> list[str]:
    """Return those of the wanted columns that the run's table has."""
    has = {field[0] for field in run.tables[view].fields}
    return [name for name in wanted if name in has]


def read_columns(run: Run, alias: str = "m") -> str:
    """Return the SELECT list of what `reads` tells of a pair, evidence tier first."""
    tier = [name for name in ("tier",) if run.has("reads", "tier")]
    first = [_TIER + " AS tier"] if tier and run.has("reads", "is_token") else tier
    return ", ".join([*first, *(f"{alias}.{name}" for name in known(run, "reads", READS))])


def write_columns(run: Run, alias: str = "m") -> str:
    """Return the SELECT list of what `writes` tells of a pair."""
    return ", ".join(f"{alias}.{name}" for name in known(run, "writes", WRITES))


def labelled(run: Run, select: str, view: str, rest: str) -> str:
    """Return a query over a map with the label of each feature, where the run has labels."""
    if not run.has("features", "label"):
        return f"SELECT {select} FROM {view} m {rest}"
    joined = f'{view} m LEFT JOIN features f USING (dictionary, "window", feature)'
    return f"SELECT {select}, f.label FROM {joined} {rest}"


def without_empty(table: pa.Table) -> pa.Table:
    """Return a table without the columns that are null in every row."""
    empty = [n for n in table.column_names if table.num_rows and table[n].null_count == len(table)]
    return table.drop_columns(empty)


def with_names(table: pa.Table, window: str) -> pa.Table:
    """Return a table whose column `feature` holds names, L00-L01.F00012."""
    names = [str(FeatureId(Window.parse(window), f)) for f in table["feature"].to_pylist()]
    place = table.column_names.index("feature")
    return table.set_column(place, "feature", pa.array(names, pa.string()))


def places(run: Run, view: str, dictionary: str | None) -> list[tuple[str, str]]:
    """Return each dictionary and window that a table has rows of; raise ValueError where none."""
    run.require(view)
    found = [tuple(source.added.values()) for source in run.tables[view].sources]
    names = sorted({name for name, _ in found})
    if dictionary not in (None, *names):
        raise ValueError(
            f"{run.results} has no dictionary {dictionary!r}; it has {', '.join(names)}"
        )
    return sorted((d, w) for d, w in found if dictionary in (None, d))
