"""The written tables: lists agree with the text, and files follow from inputs and seed alone."""

import numpy as np
import pyarrow as pa
import pytest
from feature_world import make_text, write_shards, write_weights
from tokenizers import Tokenizer, models

from deepseemoe.config import FeaturesConfig
from deepseemoe.features.contexts import n_contexts
from deepseemoe.features.examples import collect_examples
from deepseemoe.features.halves import is_explaining
from deepseemoe.runtime.tables import Column, read_manifest, read_table, write_table

CONFIG = FeaturesConfig(context_before=6, context_after=3, n_top=5, n_quantiles=4)
WORDS = [f"<{n}>" for n in range(50)]
TABLES = ("density", "neighbours", "examples")


@pytest.fixture(scope="module")
def text():
    return make_text()


@pytest.fixture(scope="module")
def inputs(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "tokenizer").mkdir()
    tokenizer = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<0>")
    )
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    write_documents(folder / "documents.parquet", int(text.doc_ids.max()) + 1)
    return {
        "shards": write_shards(folder, text),
        "weights": write_weights(folder / "weights.safetensors", text.d_dict),
        "documents": folder / "documents.parquet",
        "tokenizer": folder / "tokenizer",
    }


def write_documents(path, n):
    columns = (Column("doc_id", pa.uint32(), "", ""), Column("domain", pa.string(), "", ""))
    write_table(path, columns, {"doc_id": range(n), "domain": ["a"] * n}, {})


def collect(folder, inputs, *, seed=0):
    paths = {name: folder / f"{name}.parquet" for name in TABLES}
    collect_examples(CONFIG, **inputs, **paths, seed=seed)
    return paths


def test_lists_hold_the_tokens_and_activations_around_the_peak(text, inputs, tmp_path):
    rows = read_table(collect(tmp_path, inputs)["examples"]).to_pylist()
    dense = text.matrix.toarray()
    assert 11 * 30 < len(rows) <= 11 * n_contexts(CONFIG) == 11 * (2 * (5 + 4 + 10 + 5) + 9)
    for row in rows:
        first = row["place"] - row["peak"]
        places = slice(first, first + len(row["tokens"]))
        assert row["token_ids"] == text.token_ids[places].tolist()
        assert row["tokens"] == [WORDS[token] for token in row["token_ids"]]
        assert row["activations"] == dense[places, row["feature"]].tolist()
        assert set(text.doc_ids[places]) == {row["doc_id"]}
        assert row["half"] == ("explain" if is_explaining(np.array([row["doc_id"]])) else "score")
        if row["group"] in ("near", "neighbour", "random"):
            assert not any(row["activations"])
        else:
            assert max(row["activations"]) == row["activations"][row["peak"]] > 0


def test_rows_are_sorted_by_feature_group_and_rank(inputs, tmp_path):
    rows = read_table(collect(tmp_path, inputs)["examples"]).to_pylist()
    groups = ["top", "q0", "q1", "q2", "q3", "near", "neighbour", "random"]
    keys = [(row["feature"], row["half"], groups.index(row["group"]), row["rank"]) for row in rows]
    assert keys == sorted(set(keys))


def test_tables_have_the_same_bytes_for_the_same_seed_only(inputs, tmp_path):
    one, two, other = (
        collect(tmp_path / name, inputs, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert one["examples"].read_bytes() == two["examples"].read_bytes()
    assert one["density"].read_bytes() == two["density"].read_bytes()
    assert one["examples"].read_bytes() != other["examples"].read_bytes()


def test_manifests_say_what_the_tables_rest_on(text, inputs, tmp_path):
    manifest = read_manifest(collect(tmp_path, inputs)["density"])
    assert manifest["n_valid"] == text.is_valid.sum()
    assert (manifest["n_tokens"], manifest["d_dict"], manifest["seed"]) == (text.n_tokens, 12, 0)


def test_files_of_another_run_are_refused(inputs, tmp_path):
    write_documents(tmp_path / "documents.parquet", 3)
    with pytest.raises(ValueError, match="3 kept documents"):
        collect(tmp_path, inputs | {"documents": tmp_path / "documents.parquet"})
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="1 tokens, but"):
        collect(tmp_path, inputs | {"tokenizer": tmp_path})
    write_weights(tmp_path / "weights.safetensors", 5)
    with pytest.raises(ValueError, match="5 features, but the feature shards have 12"):
        collect(tmp_path, inputs | {"weights": tmp_path / "weights.safetensors"})
    assert not any((tmp_path / f"{name}.parquet").exists() for name in TABLES)


def test_neighbours_of_every_feature_are_written(inputs, tmp_path):
    rows = read_table(collect(tmp_path, inputs)["neighbours"]).to_pylist()
    assert [(row["feature"], row["rank"]) for row in rows] == [
        (feature, rank) for feature in range(12) for rank in range(11)
    ]
    assert all(row["neighbour"] != row["feature"] for row in rows)


@pytest.mark.parametrize("name", ["feature", "activation", "offsets", "is_valid"])
def test_a_missing_or_damaged_chunk_is_named_and_nothing_is_written(text, inputs, tmp_path, name):
    for damage in ("damaged", "missing"):
        folder = tmp_path / damage
        folder.mkdir()
        shards = write_shards(folder, text)
        chunk = shards[1] / name / "c" / "0"
        damaged = bytearray(chunk.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        chunk.unlink()
        if damage == "damaged":
            chunk.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"00001\.zarr: {name}: .*{damage}") as error:
            collect(folder, inputs | {"shards": shards})
        assert "\n" not in str(error.value)
        assert not (folder / "examples.parquet").exists()
