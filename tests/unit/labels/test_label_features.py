"""The stage label_features: its tables, its choice of features, and the same bytes every time."""

import numpy as np
import pyarrow as pa
import pytest
from label_world import DOMAINS, PLANTED, TEXTS, make_matrix, make_reading
from llm_world import KEY, Server, make_config, oracle, write_examples
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from deepseemoe.config import FeaturesConfig, LabelsConfig
from deepseemoe.features.examples import collect_examples
from deepseemoe.features.store import FeatureWriter
from deepseemoe.features.tokens import byte_alphabet
from deepseemoe.labels.features import label_features
from deepseemoe.runtime.files import growing
from deepseemoe.runtime.tables import Column, read_manifest, read_table, write_table

N_PLANTED = len(PLANTED)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Write the label world as the files of a run, in two shards."""
    folder = tmp_path_factory.mktemp("run")
    reading = make_reading()
    matrix = make_matrix(reading)
    arrays = {
        "token_id": reading.token_ids,
        "doc_id": reading.doc_ids,
        "position": reading.positions,
        "is_valid": reading.is_valid,
    }
    shards = [folder / "00000.zarr", folder / "00001.zarr"]
    for path, chosen in zip(shards, (slice(0, 19_200), slice(19_200, None)), strict=True):
        with growing(path) as partial:
            writer = FeatureWriter(partial, d_dict=matrix.shape[1], manifest={})
            writer.append(matrix[chosen], {name: array[chosen] for name, array in arrays.items()})
    write_tokenizer(folder / "tokenizer")
    names = np.full(reading.doc_ids.max() + 1, "", object)
    names[reading.doc_ids] = np.array(DOMAINS, object)[reading.domains]
    columns = Column("doc_id", pa.uint32(), "", ""), Column("domain", pa.string(), "", "")
    values = {"doc_id": np.arange(len(names)), "domain": list(names)}
    write_table(folder / "documents.parquet", columns, values, {})
    files = {"documents": folder / "documents.parquet", "tokenizer": folder / "tokenizer"}
    tables = {name: folder / f"{name}.parquet" for name in ("density", "neighbours", "examples")}
    weights = folder / "weights.safetensors"
    decoder = np.random.default_rng(0).standard_normal((matrix.shape[1], 1, 8), np.float32)
    save_file({"decoder": decoder}, weights)
    collect_examples(FeaturesConfig(), shards=shards, weights=weights, **files, **tables, seed=0)
    del tables["neighbours"]
    return {"shards": shards, **files, **tables}


def write_tokenizer(folder):
    """Write a byte-level tokenizer with the texts of the world as its vocabulary."""
    alphabet = {byte: piece for piece, byte in byte_alphabet().items()}
    pieces = ["".join(alphabet[byte] for byte in text.encode()) for text in TEXTS]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))


def label(folder, inputs, config, *, seed=0):
    paths = {"features": folder / "features.parquet", "scores": folder / "scores.parquet"}
    label_features(config, **inputs, **paths, seed=seed)
    return paths


def test_planted_features_are_described_from_the_files_of_a_run(inputs, tmp_path):
    paths = label(tmp_path, inputs, LabelsConfig())
    rows = read_table(paths["features"]).to_pylist()
    assert [row["kind"] for row in rows[:N_PLANTED]] == list(PLANTED)
    assert {row["kind"] for row in rows[N_PLANTED:]} == {"unclear"}
    assert {row["labeller"] for row in rows} == {"offline rules (no language model)"}
    scores = read_table(paths["scores"]).to_pylist()
    assert [row["feature"] for row in scores] == [row["feature"] for row in rows]
    assert {row["scorer"] for row in scores} == {"execution"}
    assert min(row["balanced_accuracy"] for row in scores[:N_PLANTED]) > 0.9


def test_the_manifest_holds_the_null_that_scores_must_beat(inputs, tmp_path):
    paths = label(tmp_path, inputs, LabelsConfig())
    manifest = read_manifest(paths["scores"])
    scores = read_table(paths["scores"])["balanced_accuracy"].to_numpy()
    assert manifest["mean_balanced_accuracy"] == pytest.approx(scores.mean())
    assert abs(manifest["null_balanced_accuracy"] - 0.5) < 0.04
    assert manifest == read_manifest(paths["features"])


def test_rare_features_are_left_out_and_the_most_frequent_go_first(inputs, tmp_path):
    n_active = read_table(inputs["density"])["n_active"].to_numpy()
    paths = label(tmp_path, inputs, LabelsConfig(min_activations=500, max_features=4))
    rows = read_table(paths["features"]).to_pylist()
    assert [row["feature"] for row in rows] == sorted(np.argsort(-n_active)[:4])
    assert [row["n_active"] for row in rows] == [n_active[row["feature"]] for row in rows]
    paths = label(tmp_path, inputs, LabelsConfig(min_activations=500))
    found = read_table(paths["features"])["feature"].to_pylist()
    assert found == np.flatnonzero(n_active >= 500).tolist()
    assert 4 < len(found) < len(n_active)


def test_where_no_feature_is_frequent_the_tables_are_empty(inputs, tmp_path):
    paths = label(tmp_path, inputs, LabelsConfig(min_activations=100_000))
    assert read_table(paths["features"]).num_rows == read_table(paths["scores"]).num_rows == 0


def test_labels_have_the_same_bytes_every_time(inputs, tmp_path):
    one, two = (label(tmp_path / name, inputs, LabelsConfig()) for name in "ab")
    for name in one:
        assert one[name].read_bytes() == two[name].read_bytes()


def test_a_language_model_fills_the_same_tables(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPSEEMOE_TEST_KEY", KEY)
    examples = write_examples(tmp_path / "examples.parquet", n_features=2)
    with Server(oracle) as server:
        config = make_config(server, max_features=2, model="oracle-1")
        density = tmp_path / "density.parquet"
        columns = Column("feature", pa.uint32(), "", ""), Column("n_active", pa.int64(), "", "")
        write_table(density, columns, {"feature": [0, 1], "n_active": [90, 80]}, {})
        changed = inputs | {"examples": examples, "density": density}
        paths = label(tmp_path, changed, config)
        assert len(server.prompts) > 4
    rows = read_table(paths["features"]).to_pylist()
    assert [(row["label"], row["kind"]) for row in rows] == [("word0", "model"), ("word1", "model")]
    assert {row["labeller"] for row in rows} == {"oracle-1 (language model)"}
    scores = read_table(paths["scores"]).to_pylist()
    assert {(row["scorer"], row["balanced_accuracy"]) for row in scores} == {("detection", 1.0)}
    assert (tmp_path / "answers" / "answers.jsonl").is_file()


def test_a_missing_key_leaves_no_table_behind(inputs, tmp_path, monkeypatch):
    monkeypatch.delenv("DEEPSEEMOE_TEST_KEY", raising=False)
    with pytest.raises(ValueError, match="DEEPSEEMOE_TEST_KEY is not set"):
        label(tmp_path, inputs, make_config())
    assert not list(tmp_path.iterdir())
