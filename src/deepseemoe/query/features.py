"""One feature: its description and score, experts it calls, experts that write it, its contexts."""

from typing import Any

import pyarrow as pa

from deepseemoe.names import ExpertId, FeatureId
from deepseemoe.query.database import Run
from deepseemoe.query.pairs import places, read_columns, without_empty, write_columns
from deepseemoe.query.sections import Section

HERE = 'feature = ? AND dictionary = ? AND "window" = ?'
N_CONTEXTS = 3


def feature_sections(
    run: Run, feature: FeatureId, *, dictionary: str | None, n_rows: int
) -> list[Section]:
    """Return what the tables tell of a feature of one dictionary, by default the run's first.

    Raises ValueError where there is no such dictionary, window or feature.
    """
    every = places(run, "density", dictionary)
    window = str(feature.window)
    names = [name for name, place in every if place == window]
    if not names:
        known = ", ".join(dict.fromkeys(place for _, place in every))
        raise ValueError(f"{window} is no window of this run; it has {known}")
    key = (feature.feature, names[0], window)
    density = run.query(f"SELECT n_active, density, n_documents FROM density WHERE {HERE}", key)
    if not density.num_rows:
        sql = 'SELECT max(feature) AS last FROM density WHERE dictionary = ? AND "window" = ?'
        (last,) = run.query(sql, key[1:])["last"].to_pylist()
        ends = f"{FeatureId(feature.window, 0)} to {FeatureId(feature.window, last)}"
        raise ValueError(f"no feature {feature}: {names[0]} has {ends}")
    others = f"; --dictionary shows that of {', '.join(names[1:])}" if names[1:] else ""
    sections = [Section(f"{feature} of {names[0]}{others}", density), *_label(run, key)]
    for view, title, order, columns in _maps(run, names[0]):
        sql = f"SELECT m.layer, m.expert, {columns} FROM {view} m WHERE {HERE} ORDER BY {order}"
        table = run.query(f"{sql}, m.layer, m.expert LIMIT {n_rows}", key)
        sections.append(Section(title, without_empty(_with_experts(table)), "no tested pair"))
    return sections + _contexts(run, key)


def _maps(run: Run, dictionary: str) -> list[tuple[str, str, str, str]]:
    """Return view, title, order and columns of each map of a dictionary."""
    found = []
    if run.has("reads", "lor"):
        # '' is the tier of pairs without replicated evidence, and stands behind C.
        tier = "coalesce(nullif(m.tier, ''), 'Z'), " if run.has("reads", "tier") else ""
        order = f"{tier}m.lor DESC"
        found.append(("reads", "calls experts (reads)", order, read_columns(run)))
    if run.has("writes", "contrast") and _has_writes(run, dictionary):
        title = "experts that write it (writes)"
        found.append(("writes", title, "m.contrast DESC", write_columns(run)))
    return found


def _has_writes(run: Run, dictionary: str) -> bool:
    """Return whether a dictionary has a map of writes; those of older runs may not."""
    return any(dictionary in source.added.values() for source in run.tables["writes"].sources)


def _label(run: Run, key: tuple[Any, ...]) -> list[Section]:
    if not run.has("features", "label"):
        return []
    if not run.has("scores", "balanced_accuracy"):
        table = run.query(f"SELECT label FROM features m WHERE {HERE}", key)
        return [Section("description", table, "not described: it fires too rarely")]
    columns = (
        "label, scorer, balanced_accuracy, lo AS balanced_accuracy_lo, hi AS balanced_accuracy_hi"
    )
    if run.has("scores", "lift"):  # runs of older versions have none
        columns = f"{columns}, lift, coalesce(nullif(features.reason, ''), scores.reason) AS reason"
    joined = 'features LEFT JOIN scores USING (dictionary, "window", feature)'
    table = run.query(f"SELECT {columns} FROM {joined} WHERE {HERE} ORDER BY scorer", key)
    title = (
        "description, and how well it tells where the feature fires (0.5 is chance; lift: above "
    )
    title += "swapped descriptions)"
    return [Section(title, table, "not described: it fires too rarely")]


def _with_experts(table: pa.Table) -> pa.Table:
    """Return a table whose layer and expert are one column of names, L01.E3."""
    pairs = zip(table["layer"].to_pylist(), table["expert"].to_pylist(), strict=True)
    names = pa.array([str(ExpertId(*pair)) for pair in pairs], pa.string())
    return table.set_column(0, "expert", names).remove_column(1)


def _contexts(run: Run, key: tuple[Any, ...]) -> list[Section]:
    """Return the feature's top contexts, the peak token in brackets."""
    if not run.has("examples", "tokens", "peak"):
        return []
    sql = "SELECT tokens, activations, peak FROM examples"
    order = "ORDER BY activations[peak + 1] DESC, doc_id"
    rows = run.query(f"{sql} WHERE {HERE} AND \"group\" = 'top' {order}", key).to_pylist()
    shown = rows[:N_CONTEXTS]
    table = pa.table(
        {
            "activation": pa.array(
                [row["activations"][row["peak"]] for row in shown], pa.float64()
            ),
            "context": pa.array([_context(row) for row in shown], pa.string()),
        }
    )
    return [Section("contexts of its highest activations, [[peak]]", table, "it never fires")]


def _context(row: dict[str, Any]) -> str:
    """Return the text around the peak, short enough for a line."""
    before, after = row["tokens"][: row["peak"]], row["tokens"][row["peak"] + 1 :]
    peak = row["tokens"][row["peak"]]
    return f"{''.join(before)[-32:]}[[{peak}]]{''.join(after)[:24]}"
