"""Latents for Delphi hold the sparse matrix entry by entry, by the logic of Delphi's own loader.

`buffer` and `edges` do what TensorBuffer.load, load_data_per_latent and LatentDataset._edges do in
delphi/latents/loader.py of EleutherAI/delphi (commit 30158d9b5c15751c4709a36f21ce8104df4c3a62), in
numpy. The package itself pins vLLM, so it is not installed here.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from exported_runs import LABELLED, N_FEATURES, make_run
from feature_world import SEQUENCE, make_text
from safetensors.numpy import load_file
from scipy import sparse

from deepseemoe.cli import main
from deepseemoe.features.store import FeatureShard
from deepseemoe.interop import delphi, shard_blocks
from deepseemoe.interop.exporting import export_dictionary
from deepseemoe.interop.tensor_file import TensorFile

HOOKPOINT = "sae.L02-L03"


def exported(tmp_path, **options):
    dictionary, text = make_run(tmp_path, **options)
    export_dictionary(dictionary, format="delphi", folder=tmp_path / "out")
    return tmp_path / "out", text


def edges(folder):
    """Return the first and last feature of each file, both in it."""
    found = [tuple(map(int, path.stem.split("_"))) for path in folder.glob("*.safetensors")]
    return sorted(found)


def buffer(path):
    """Return features, and rows, positions and activations of each, and tokens."""
    held = load_file(path)
    locations = held["locations"].astype(np.int64)
    locations[:, 2] += int(path.name.split("_")[0])
    order = np.argsort(locations[:, 2], kind="stable")
    features, starts = np.unique(locations[order, 2], return_index=True)
    cut = np.split(locations[order], starts[1:]), np.split(held["activations"][order], starts[1:])
    return features, *cut, held["tokens"].astype(np.int64)


def matrix_of(folder):
    """Return the activations as a (T, F) matrix, and the text (T,)."""
    parts, tokens = [], None
    for first, last in edges(folder):
        features, locations, activations, tokens = buffer(folder / f"{first}_{last}.safetensors")
        for feature, own, values in zip(features, locations, activations, strict=False):
            flat = own[:, 0] * tokens.shape[1] + own[:, 1]
            assert (np.diff(flat) > 0).all(), "unique_consecutive of contexts wants text order"
            parts.append((values, flat, np.full(len(own), feature)))
    values, places, features = (np.concatenate(part) for part in zip(*parts, strict=True))
    values = values.astype(np.float32)  # scipy knows no float16
    matrix = sparse.csr_array((values, (places, features)), shape=(tokens.size, N_FEATURES))
    return matrix, tokens.ravel()


def test_every_entry_of_the_matrix_and_every_token_comes_back(tmp_path):
    folder, text = exported(tmp_path)
    latents = folder / "latents" / HOOKPOINT
    matrix, tokens = matrix_of(latents)
    np.testing.assert_array_equal(tokens, text.token_ids)
    assert matrix.nnz == text.matrix.nnz
    np.testing.assert_array_equal(matrix.toarray(), text.matrix.toarray().astype(np.float16))
    assert load_file(next(latents.glob("*.safetensors")))["locations"].dtype == np.uint16


def test_files_cut_the_features_as_delphi_names_them(tmp_path):
    folder, _ = exported(tmp_path)
    found = edges(folder / "latents" / HOOKPOINT)
    assert found == [(0, 1), (2, 3), (4, 6), (7, 8), (9, 11)]  # its generate_split_indices(12, 5)


def test_the_module_folder_has_what_the_dataset_asks_of_a_cache(tmp_path):
    folder, text = exported(tmp_path)
    assert [path.name for path in (folder / "latents").iterdir()] == [HOOKPOINT]  # os.listdir
    config = json.loads((folder / "latents" / HOOKPOINT / "config.json").read_text())
    asked = {"model_name", "ctx_len", "dataset_repo", "dataset_split", "dataset_name"}
    assert asked | {"dataset_column", "dataset_row", "n_tokens", "n_splits"} <= set(config)
    assert (config["model_name"], config["ctx_len"]) == ("some/Big-MoE.5", SEQUENCE)
    assert config["n_tokens"] == text.n_tokens


def test_explanations_are_json_strings_in_files_that_delphi_looks_for(tmp_path):
    folder, _ = exported(tmp_path)
    found = {
        path.name: json.loads(path.read_text()) for path in (folder / "explanations").iterdir()
    }
    assert set(found) == {f"{HOOKPOINT}_latent{feature}.txt" for feature in LABELLED}
    assert found[f"{HOOKPOINT}_latent0.txt"] == "rivers"
    assert found[f"{HOOKPOINT}_latent1.txt"] == "see ⟨url⟩ or ⟨mail⟩"


def test_blocks_of_any_length_give_the_same_bytes(tmp_path, monkeypatch):
    first, _ = exported(tmp_path / "a")
    given = shard_blocks.blocks
    monkeypatch.setattr(delphi, "blocks", lambda shard: given(shard, 37))
    second, _ = exported(tmp_path / "b")
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(names) == 5 + 1 + len(LABELLED) + 1
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_activations_beyond_float16_stay_active_and_finite(tmp_path):
    text = make_text(n_features=N_FEATURES)
    text.matrix.data[:2] = 1e6, 1e-9
    folder, _ = exported(tmp_path, text=text)
    matrix, _ = matrix_of(folder / "latents" / HOOKPOINT)
    assert matrix.nnz == text.matrix.nnz
    assert (matrix.data > 0).all()
    assert np.isfinite(matrix.data).all()
    assert "cut at 65504; 1 were" in (folder / "README.md").read_text()


def test_more_rows_or_tokens_than_16_bits_take_wider_numbers():
    assert delphi.narrowest((1 << 16) - 1) == np.uint16
    assert delphi.narrowest(1 << 16) == np.uint32


def test_more_entries_than_a_file_may_have_make_more_files(monkeypatch):
    monkeypatch.setattr(delphi, "ENTRIES_PER_SPLIT", 10)
    layout = delphi.layout_of(np.full(100, 1))
    assert len(layout.n_entries) == 10
    assert (layout.n_entries == 10).all()


def test_a_shard_that_is_not_whole_sequences_is_refused(tmp_path):
    dictionary, _ = make_run(tmp_path)
    config = tmp_path / "results/river/config.yaml"
    config.write_text(config.read_text().replace(f"length: {SEQUENCE}", f"length: {SEQUENCE - 1}"))
    with pytest.raises(ValueError, match="not made of sequences of 63 tokens"):
        export_dictionary(dictionary, format="delphi", folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_shard_in_the_middle_is_told_and_none_at_all_too(tmp_path):
    dictionary, _ = make_run(tmp_path)
    features = tmp_path / "results/river/features/sae/L02-L03"
    (features / "00001.zarr").rename(features / "away")
    with pytest.raises(ValueError, match="expected 00000.zarr to 00001.zarr without a gap"):
        export_dictionary(dictionary, format="delphi", folder=tmp_path / "out")
    for name in ("00000", "00002"):
        (features / f"{name}.zarr").rename(features / f"away-{name}")
    with pytest.raises(ValueError, match="no feature shards; run `snakemake encode_features`"):
        export_dictionary(dictionary, format="delphi", folder=tmp_path / "out")


def test_a_run_without_labels_gives_latents_to_be_labelled(tmp_path):
    dictionary, _ = make_run(tmp_path)
    (tmp_path / "results/river/labels/sae/L02-L03/features.parquet").unlink()
    assert main(["export", str(dictionary), "--to", "delphi", "--out", str(tmp_path / "out")]) == 0
    assert [*(tmp_path / "out/explanations").iterdir()] == []


def test_blocks_hold_a_shard_once_and_in_order(tmp_path):
    dictionary, text = make_run(tmp_path)
    path = Path(str(dictionary).replace("dictionary", "features")) / "00001.zarr"
    shard = FeatureShard.open(path)
    found = [*shard_blocks.blocks(shard, 100)]
    np.testing.assert_array_equal(np.concatenate([b.token_ids for b in found]), shard.token_ids)
    np.testing.assert_array_equal(np.concatenate([b.features for b in found]), shard.features)
    rows = np.concatenate([block.tokens for block in found])
    np.testing.assert_array_equal(
        rows, np.repeat(np.arange(shard.n_tokens), np.diff(shard.offsets.astype(int)))
    )


def test_a_tensor_file_tells_too_many_and_too_few_rows(tmp_path):
    shapes = {"x": (np.dtype(np.uint16), (3, 2))}
    with (
        pytest.raises(ValueError, match="fewer rows than were counted"),
        TensorFile(tmp_path / "a", shapes) as file,
    ):
        file.append("x", np.zeros((2, 2)))
    with (
        pytest.raises(ValueError, match="more rows than were counted"),
        TensorFile(tmp_path / "b", shapes) as file,
    ):
        file.append("x", np.zeros((4, 2)))
