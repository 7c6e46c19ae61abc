"""One word: the features, experts and tokens of whose text it is a part, in any case."""

from deepseemoe.query.database import Run
from deepseemoe.query.sections import Section


def word_sections(run: Run, word: str, *, dictionary: str | None, n_rows: int) -> list[Section]:
    """Return labels and tokens that hold a word; raise ValueError where nothing does."""
    sections = [
        _features(run, word, dictionary, n_rows),
        _experts(run, word, dictionary, n_rows),
        _tokens(run, word, n_rows),
    ]
    found = [section for section in sections if section and section.table.num_rows]
    if not found:
        raise ValueError(f"no label and no token holds {word!r}")
    return found


_OF_LABELS = "(SELECT * FROM scores WHERE scorer IN ('execution', 'detection'))"
"""The scores that speak for a description: one of each feature."""


def _features(run: Run, word: str, dictionary: str | None, n_rows: int) -> Section | None:
    if not run.has("features", "label"):
        return None
    has_scores = run.has("scores", "balanced_accuracy")
    score = ", max(s.balanced_accuracy) AS balanced_accuracy" if has_scores else ""
    joined = f'LEFT JOIN {_OF_LABELS} s USING (dictionary, "window", feature)' if has_scores else ""
    sql = f"""
        SELECT dictionary, format('{{}}.F{{:05d}}', "window", feature) AS feature, n_active{score},
               label
        FROM features f {joined} WHERE contains(lower(label), lower(?)) {_of(dictionary)}
        GROUP BY dictionary, "window", f.feature, n_active, label
        ORDER BY {"balanced_accuracy DESC NULLS LAST," if has_scores else ""}
                 n_active DESC, dictionary, "window", f.feature LIMIT {n_rows}"""
    return Section("features whose description holds it", run.query(sql, _key(word, dictionary)))


def _experts(run: Run, word: str, dictionary: str | None, n_rows: int) -> Section | None:
    if not run.has("experts", "label"):
        return None
    kind = "if(is_shared, 'S', 'E')" if run.has("experts", "is_shared") else "'E'"
    sql = f"""
        SELECT format('L{{:02d}}.{{}}{{}}', layer, {kind}, expert) AS expert, dictionary, "window",
               label
        FROM experts m WHERE contains(lower(label), lower(?)) {_of(dictionary)}
        ORDER BY layer, m.expert, dictionary, "window" LIMIT {n_rows}"""
    return Section("experts whose description holds it", run.query(sql, _key(word, dictionary)))


def _tokens(run: Run, word: str, n_rows: int) -> Section | None:
    if not run.has("vocabulary", "lift"):
        return None
    sql = f"""
        SELECT token, token_id, format('L{{:02d}}.E{{}}', layer, expert) AS expert, n_tokens,
               p_expert_given_token, lift
        FROM vocabulary v WHERE contains(lower(token), lower(?))
        ORDER BY lift DESC, n_tokens DESC, layer, v.expert LIMIT {n_rows}"""
    return Section("tokens that hold it, and the experts they prefer", run.query(sql, [word]))


def _of(dictionary: str | None) -> str:
    return "AND dictionary = ?" if dictionary else ""


def _key(word: str, dictionary: str | None) -> list[str]:
    return [word, dictionary] if dictionary else [word]
