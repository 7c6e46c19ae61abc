"""`deepseemoe look` tells of an expert, a feature or a word what the tables hold, and no more."""

import csv
import io
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_tables import NASTY

from deepseemoe.cli import main
from deepseemoe.query.look import ask, look
from deepseemoe.query.sections import as_text


@pytest.fixture
def shown(small, capsys):
    """Call the console script and return what it prints."""

    def call(*arguments):
        assert main(["look", str(small), *arguments]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return call


@pytest.fixture
def refused(small, capsys):
    """Call the console script, which must fail, and return its one line."""

    def call(*arguments, results=small):
        assert main(["look", str(results), *arguments]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    return call


def test_an_expert_shows_load_domains_tokens_and_maps(shown):
    text = shown("L01.E2")
    parts = (
        "law", "0.50 (0.10 … 0.90)", "Court", "law: court", "called by features of",
        "L00-L01.F00001", "+2.00 (+1.50 … +2.50)", "writes features of transcoder",
    )  # fmt: skip
    for part in parts:
        assert part in text
    assert text.index("L00-L01.F00001") < text.index("L00-L01.F00000"), "by rank"


def test_options_stand_where_one_likes(shown):
    assert shown("--n", "1", "L01.E2") == shown("L01.E2", "--n", "1")
    with pytest.raises(SystemExit):
        shown("L01.E2", "L01.E0")


def test_a_feature_shows_label_score_experts_and_contexts(shown):
    text = shown("L00-L01.F00001")
    assert "--dictionary shows that of transcoder" in text
    assert "0.80 (0.70 … 0.90)" in text
    assert text.index("L01.E2") < text.index("L01.E0"), "called experts before avoided ones"
    assert "[[a\\u001b[31mred\\u202ebackwards⏎]]x" in text
    assert "that write it" not in text, "a crosscoder has no map of writes"
    assert "+1.50 (+1.00 … +2.00)" in shown("L00-L01.F00001", "--dictionary", "transcoder")


def test_a_word_is_found_in_labels_of_features_and_experts_and_in_tokens(shown):
    text = shown("COURT")
    assert "the word court" in text
    assert "law: court" in text
    assert " Court" in text


def test_shared_experts_are_told_apart_from_the_routed_one_of_their_number(shown):
    assert "shared: court" in shown("L01.S0")
    assert "L01.S0" in shown("court")
    assert "shared: court" not in shown("L01.E0", "--dictionary", "crosscoder")


def test_columns_that_a_map_has_are_shown_and_others_are_not_missed(shown):
    crosscoder = shown("L01.E2", "--dictionary", "crosscoder")
    assert "causal_dp" in crosscoder
    assert "A T" in crosscoder, "tier, and the flag of tokens"
    transcoder = shown("L01.E2", "--dictionary", "transcoder")
    assert "causal_dp" not in transcoder
    assert "tier" not in transcoder


def test_nothing_of_the_web_reaches_the_terminal_raw(shown):
    for arguments in (["L01.E2"], ["L00-L01.F00001"], ["red"], ["--sql", "FROM vocabulary"],
                      ["--sql", "FROM examples"], ["red", "--csv"], ["red", "--json"]):  # fmt: skip
        text = shown(*arguments)
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_json_keeps_every_value_and_csv_every_row(shown):
    (section,) = json.loads(shown("--sql", "FROM vocabulary ORDER BY token_id", "--json"))
    assert [row["token"] for row in section["rows"]] == [" Court", NASTY]
    rows = list(csv.DictReader(io.StringIO(shown("--sql", "FROM reads", "--csv"))))
    assert len(rows) == 6
    assert {row["dictionary"] for row in rows} == {"crosscoder", "transcoder"}


def test_views_span_dictionaries_and_windows_and_miss_columns_as_null(small):
    counts = "count(*) AS n, count(causal_dp) AS n_causal"
    sql = f"SELECT dictionary, window, {counts} FROM reads GROUP BY ALL"
    (section,) = ask(small, sql)
    rows = sorted(section.table.to_pylist(), key=lambda row: row["dictionary"])
    of = {"window": "L00-L01", "n": 3}
    assert rows == [
        of | {"dictionary": "crosscoder", "n_causal": 2},
        of | {"dictionary": "transcoder", "n_causal": 0},
    ]


def test_nan_is_null_in_views(small, tmp_path):
    """DuckDB has NaN > 1; a missing number must pass no filter and come first in no order."""
    root = tmp_path / "run"
    shutil.copytree(small, root)
    path = root / "routing/domains.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0]["lift"] = float("nan")
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)
    assert ask(root, "FROM domains WHERE lift > 1")[0].table.num_rows == 0
    (section,) = ask(root, "SELECT lift FROM domains ORDER BY lift DESC")
    assert section.table["lift"].to_pylist() == [0.5, None]


def test_a_window_clause_of_sql_still_works(small):
    sql = "SELECT row_number() OVER w AS n FROM load WINDOW w AS (ORDER BY expert)"
    assert ask(small, sql)[0].table.num_rows == 6


def test_tables_tell_columns_unit_and_meaning(shown):
    text = shown("--tables", "load")
    assert "one row a routed expert" in text
    assert "share / (top_k / n_experts)" in text
    assert "examples (4 rows in 2 files)" in shown("--tables")


def test_a_table_that_nobody_named_has_a_view(small, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(small, root)
    table = pq.read_table(root / "routing/load.parquet")
    for place in ("routing/saturation", "trust/hard/0/scores", "experts/crosscoder/L00-L01/odd"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, root / f"{place}.parquet")
    assert ask(root, "FROM saturation")[0].table.num_rows == 6
    assert ask(root, "SELECT DISTINCT folder FROM trust_scores")[0].table["folder"].to_pylist() == [
        "hard/0"
    ]
    assert "dictionary" in ask(root, "FROM odd")[0].table.column_names


def test_a_run_without_labels_and_vocabulary_still_shows_its_maps(small, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(small, root)
    shutil.rmtree(root / "labels")
    (root / "routing/vocabulary.parquet").unlink()
    assert "+2.00 (+1.50 … +2.50)" in as_text(look(root, "L01.E2"))
    assert "L01.E2" in as_text(look(root, "L00-L01.F00001"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["L01.E3"], "no expert L01.E3: the layer has L01.E0 to L01.E2"),
        (["L09.E0"], "no expert L09.E0: this run routes in L00, L01"),
        (["L00.S0"], "L00.S0 is a shared expert: every token passes it, and no table describes"),
        (["L00-L01.F00003"], "no feature L00-L01.F00003: crosscoder has L00-L01.F00000 to"),
        (["L02-L03.F00001"], "L02-L03 is no window of this run; it has L00-L01"),
        (["zebra"], "no label and no token holds 'zebra'"),
        (["  "], "nothing to look for"),
        (["L01.E2", "--dictionary", "sae"], "no dictionary 'sae'; it has crosscoder, transcoder"),
        (["court", "--dictionary", "sae"], "no dictionary 'sae'; it has crosscoder, transcoder"),
        (["--sql", "FROM nowhere"], "no table nowhere; it has density, domains"),
        (["--sql", "SELECT nope FROM load"], 'column "nope" not found'),
        (["--sql", "SELEC 1"], "syntax error"),
        (["--sql", "SELECT 1; SELECT 2"], "one SELECT is answered; found SELECT, SELECT"),
        (["--sql", "COPY load TO '/dev/null'"], "one SELECT is answered; found COPY"),
        (["--sql", "CREATE TABLE x AS SELECT 1"], "one SELECT is answered; found CREATE"),
        (["--sql", "SELECT CAST('a' AS INT)"], "Could not convert"),
        (["--tables", "nowhere"], "no table nowhere"),
        ([], "say one of"),
        (["L01.E2", "--sql", "FROM load"], "say one of"),
        (["L01.E2", "--n", "0"], "--n 0 is no number of rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_said_in_one_line(arguments, line, refused):
    assert line in refused(*arguments)


def test_a_folder_without_tables_is_said_in_one_line(refused, tmp_path):
    assert "holds no tables" in refused("L01.E2", results=tmp_path / "nowhere")
    half = tmp_path / "half/routing"
    half.mkdir(parents=True)
    (half / "load.parquet").write_bytes(b"PAR1")
    assert "load.parquet" in refused("L01.E2", results=half.parent)
