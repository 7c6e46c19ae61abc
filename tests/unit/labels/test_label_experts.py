"""Descriptions of experts say what the tables support, the strongest first, and no more."""

import pyarrow as pa
import pytest

from deepseemoe.labels.experts import label_experts
from deepseemoe.runtime.files import write_json
from deepseemoe.runtime.tables import Column, read_table, write_table

TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string()}
NARROW = {"layer": pa.uint16(), "expert": pa.uint16(), "feature": pa.uint32(), "q": pa.float32()}


def write(path, **columns):
    documented = tuple(
        Column(name, NARROW.get(name, TYPES[type(values[0])]), "", "")
        for name, values in columns.items()
    )
    write_table(path, documented, columns, {})
    return path


@pytest.fixture
def run(tmp_path):
    """Write the tables of one layer of three experts: code, mixed, and nothing at all."""
    write(
        tmp_path / "load.parquet",
        layer=[3, 2, 2, 2],
        expert=[0, 2, 0, 1],
        share=[0.5, 0.1, 0.3, 0.6],
    )
    write(
        tmp_path / "domains.parquet",
        layer=[2, 2, 2, 2],
        expert=[0, 0, 1, 1],
        domain=["code", "law", "code", "law"],
        share=[0.6, 0.1, 0.55, 0.66],
        lift=[2.0, 0.33, 0.92, 1.1],
        share_lo=[0.5, 0.05, 0.5, 0.58],
        share_hi=[0.7, 0.2, 0.6, 0.7],
    )
    write(
        tmp_path / "vocabulary.parquet",
        layer=[2, 2, 2, 2, 3],
        expert=[0, 0, 0, 1, 0],
        token_id=[5, 6, 7, 8, 9],
        token=[" def", " self", " the", "\n", " other"],
        n_tokens=[50, 90, 900, 30, 30],
        p_expert_given_token=[0.9, 0.9, 0.2, 0.8, 1.0],
        lift=[3.0, 3.0, 0.7, 1.3, 2.0],
    )
    write(
        tmp_path / "reads.parquet",
        layer=[2, 2, 2, 2, 2],
        expert=[0, 0, 0, 0, 1],
        feature=[12, 34, 56, 78, 90],
        lor=[2.0, 3.0, 4.0, -0.5, 1.5],
        q=[0.01, 0.001, 0.2, 0.001, 0.04],
        rank=[2, 1, 3, 4, 1],
    )
    write(
        tmp_path / "features.parquet",
        feature=[12, 34, 78],
        label=["token “import”", "no clear rule; top tokens “a”", "digits"],
        kind=["token", "unclear", "shape"],
    )
    write(
        tmp_path / "writes.parquet",
        layer=[2, 2],
        expert=[1, 1],
        feature=[78, 12],
        contrast=[0.2, 0.9],
        contrast_lo=[0.1, -0.1],
    )
    write_json(tmp_path / "summary.json", {"layers": [2]})
    return tmp_path


def label(run, **changes):
    label_experts(
        reads=run / "reads.parquet",
        summary=run / "summary.json",
        feature_labels=run / "features.parquet",
        routing=run,
        experts=run / "experts.parquet",
        **changes,
    )
    return read_table(run / "experts.parquet").to_pylist()


def test_an_expert_is_described_by_domain_tokens_and_features(run):
    first = label(run)[0]
    assert first["label"] == "code: “self”, “def” · called by F00034, F00012 token “import”"
    assert first["tokens"] == [" self", " def"]
    assert first["features"] == [34, 12]
    assert (first["top_domain"], first["domain_lift"], first["share"]) == ("code", 2.0, 0.3)


def test_a_domain_within_its_interval_of_the_share_stays_unsaid(run):
    second = label(run)[1]
    assert second["label"] == "“\\n” · called by F00090"
    assert (second["top_domain"], second["domain_lift"]) == ("law", 1.1)


def test_an_expert_without_findings_is_called_that(run):
    third = label(run)[2]
    assert third["label"] == "no preference found"
    assert (third["features"], third["tokens"], third["top_domain"]) == ([], [], None)


def test_experts_stand_in_order_and_only_those_of_the_layers_read(run):
    assert [(row["layer"], row["expert"]) for row in label(run)] == [(2, 0), (2, 1), (2, 2)]


def test_what_an_expert_writes_is_said_where_it_is_sure(run):
    rows = label(run, writes=run / "writes.parquet")
    assert rows[1]["label"] == "“\\n” · called by F00090 · writes F00078 digits"


def test_long_labels_of_features_are_cut(run):
    write(run / "features.parquet", feature=[12], label=["x" * 80], kind=["model"])
    assert label(run)[0]["label"].endswith("F00012 " + "x" * 47 + "…")


def test_the_same_tables_give_the_same_bytes(run):
    label(run)
    first = (run / "experts.parquet").read_bytes()
    label(run)
    assert (run / "experts.parquet").read_bytes() == first


def test_a_map_without_pairs_still_describes_experts_by_tokens_and_domain(run):
    reads = read_table(run / "reads.parquet")
    columns = tuple(Column(field.name, field.type, "", "") for field in reads.schema)
    write_table(run / "reads.parquet", columns, [], {})
    rows = label(run)
    assert {row["layer"] for row in rows} == {2}
    assert [row["features"] for row in rows] == [[]] * len(rows)
    assert rows[0]["label"].startswith("code")


def test_what_an_expert_was_made_for_stands_before_what_was_found(run):
    rows = label(run, expert_domains=("code", "law", "web"))
    assert [row["made_for"] for row in rows] == ["code", "law", "web"]
    assert rows[1]["label"] == "made for law · “\\n” · called by F00090"
    assert label(run)[0]["made_for"] is None
