"""One expert: its load, its description, its domains and tokens, what calls it, what it writes."""

from collections.abc import Iterator

from deepseemoe.names import ExpertId, layer_name
from deepseemoe.query.database import Run
from deepseemoe.query.pairs import (
    labelled,
    places,
    read_columns,
    with_names,
    without_empty,
    write_columns,
)
from deepseemoe.query.sections import Section

HERE = "layer = ? AND expert = ?"
SCORE_COLUMNS = "scorer, precision, recall, f1, f1_15_85, balanced_accuracy, lift, lift_lo, lift_hi"


def expert_sections(
    run: Run, expert: ExpertId, *, dictionary: str | None, n_rows: int
) -> list[Section]:
    """Return what the tables tell of an expert; raise ValueError where there is no such expert."""
    if expert.is_shared:
        return _shared(run, expert, dictionary)
    _check(run, expert)
    key = (expert.layer, expert.expert)
    load = run.query(f"SELECT n_tokens, share, weight_share, load FROM load WHERE {HERE}", key)
    sections = [Section(f"{expert} (load 1 is a uniform share of the tokens)", load)]
    if run.has("domains", "share_lo"):
        sql = f"SELECT domain, share, share_lo, share_hi, lift FROM domains WHERE {HERE}"
        table = run.query(f"{sql} ORDER BY lift DESC, domain LIMIT {n_rows}", key)
        sections.append(Section("its share of each domain (lift 1 is its share of all)", table))
    if run.has("vocabulary", "lift"):
        sql = f"SELECT token, n_tokens, p_expert_given_token, lift FROM vocabulary WHERE {HERE}"
        table = run.query(f"{sql} ORDER BY lift DESC, n_tokens DESC, token_id LIMIT {n_rows}", key)
        sections.append(Section("tokens that choose it, by lift", table))
    for name, window in places(run, "reads", dictionary):
        sections += _maps(run, expert, name, window, n_rows)
    return sections


def _maps(
    run: Run, expert: ExpertId, dictionary: str, window: str, n_rows: int
) -> Iterator[Section]:
    """Yield what one dictionary's maps tell of an expert, where they know it."""
    key = (expert.layer, expert.expert, dictionary, window)
    own = f'm.{HERE.replace("AND ", "AND m.")} AND dictionary = ? AND "window" = ?'
    where = f"{dictionary} {window}"
    if run.has("experts", "label"):
        routed = "AND NOT m.is_shared" if run.has("experts", "is_shared") else ""
        told = run.query(f"SELECT m.label FROM experts m WHERE {own} {routed}", key)
        if told.num_rows:
            yield Section(f"described by {where}", told)
    if run.has("expert_scores", "f1_15_85"):
        sql = f"SELECT {SCORE_COLUMNS} FROM expert_scores m WHERE {own} ORDER BY scorer"
        scores = run.query(sql, key)
        if scores.num_rows:
            yield Section("its held-out routing, as told by", scores)
    end = f"WHERE {own} ORDER BY m.rank LIMIT {n_rows}"
    reads = run.query(labelled(run, f"m.feature, {read_columns(run)}", "reads", end), key)
    if reads.num_rows:
        title = f"called by features of {where} (reads)"
        yield Section(title, without_empty(with_names(reads, window)))
    if run.has("writes", "contrast"):
        end = f"WHERE {own} ORDER BY m.contrast DESC, m.feature LIMIT {n_rows}"
        writes = run.query(labelled(run, f"m.feature, {write_columns(run)}", "writes", end), key)
        if writes.num_rows:
            title = f"writes features of {where} (writes)"
            yield Section(title, without_empty(with_names(writes, window)))


def _shared(run: Run, expert: ExpertId, dictionary: str | None) -> list[Section]:
    """Return what is said of the shared experts of a layer, which are described together."""
    sections = []
    if run.has("experts", "is_shared"):
        sql = f"""
            SELECT dictionary, "window", label FROM experts
            WHERE layer = ? AND is_shared {"AND dictionary = ?" if dictionary else ""}
            ORDER BY dictionary, "window\""""
        found = run.query(sql, [expert.layer, *([dictionary] if dictionary else [])])
        sections = [Section(f"shared experts of {layer_name(expert.layer)}", found)]
    if not sections or not sections[0].table.num_rows:
        raise ValueError(
            f"{expert} is a shared expert: every token passes it, and no table describes it"
        )
    return sections


def _check(run: Run, expert: ExpertId) -> None:
    run.require("load")
    sql = "SELECT layer, max(expert) FROM load GROUP BY layer ORDER BY layer"
    layers, last = run.query(sql).to_pydict().values()
    if expert.layer not in layers:
        known = ", ".join(map(layer_name, layers))
        raise ValueError(f"no expert {expert}: this run routes in {known}")
    highest = last[layers.index(expert.layer)]
    if expert.expert > highest:
        first, final = ExpertId(expert.layer, 0), ExpertId(expert.layer, highest)
        raise ValueError(f"no expert {expert}: the layer has {first} to {final}")
