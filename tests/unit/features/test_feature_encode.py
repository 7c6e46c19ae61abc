"""Encoding a store: features in text order, invalid rows empty, against the plain formula."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseemoe.activations.layout import ArraySpec
from deepseemoe.activations.store import ActivationStore
from deepseemoe.activations.writer import open_writer
from deepseemoe.config import ActivationsConfig
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import Weighted
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.dictionary.weights import Weights
from deepseemoe.features.encode import encode_features, spans
from deepseemoe.features.shards import encode_shards
from deepseemoe.features.store import FeatureShard
from deepseemoe.names import Window
from deepseemoe.runtime.fingerprint import sampled_digest

D, F, T = 6, 9, 200
WINDOW_TOKENS = 64
WINDOW = Window(1, 2)


def write_store(path, *, layers=(1, 2), width=D, seed=0):
    """Write a store of random activations, rows permuted; return them in text order, (T, L, D)."""
    rng = np.random.default_rng(seed)
    x_TLD = torch.from_numpy(rng.normal(size=(T, len(layers), width))).bfloat16()
    arrays = [ArraySpec(f"resid_post/L{n:02d}", "uint16", width, "bfloat16") for n in layers]
    rows = {
        "token_id": np.arange(T, dtype=np.uint32),
        "doc_id": np.repeat(np.arange(T // 20), 20).astype(np.uint32),
        "position": (np.arange(T) % 20).astype(np.uint32),
    }
    for index, spec in enumerate(arrays):
        bits = x_TLD[:, index].contiguous().view(torch.int16).numpy().view(np.uint16)
        rows[spec.name] = bits
    config = ActivationsConfig(window_tokens=WINDOW_TOKENS, chunk_tokens=16)
    sizes = {"n_tokens": T, "config": config, "seed": 0, "split": "test", "shard": 0}
    with open_writer(path, arrays, manifest={"a": 1}, **sizes) as writer:
        writer.append(rows)
    return x_TLD.float()


def write_dictionary(folder, seed=1):
    generator = torch.Generator().manual_seed(seed)
    n_layers = len(WINDOW.layers)
    encoder, decoder = (torch.randn(F, n_layers * D, generator=generator) for _ in range(2))
    weights = Weights(
        (encoder,), torch.randn(F, generator=generator), (decoder,), torch.zeros(n_layers * D)
    )
    plain, same = (Normalisation(torch.zeros(n_layers, D), torch.ones(n_layers)) for _ in range(2))
    names = {"kind": "crosscoder", "reads": "resid_post", "writes": "resid_post"}
    made = Dictionary(
        window=WINDOW,
        k=2,
        weights=weights,
        reading=plain,
        writing=same,
        gate=Weighted(20.0),
        **names,
    )
    made.save(folder)
    return made


def files(folder):
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in found}


def expected(dictionary, x_TLD, is_valid):
    z_TF = x_TLD.flatten(1) @ dictionary.weights.encoders[0].T + dictionary.weights.encoder_bias
    norm_F = dictionary.weights.decoders[0].view(F, -1, D).norm(dim=2).sum(1)
    return torch.where((z_TF * norm_F > 20.0) & (z_TF > 0), z_TF, 0.0).numpy() * is_valid[:, None]


def encode(tmp_path, name="x"):
    places = {"dictionary": tmp_path / "dictionary", "store": tmp_path / "store.zarr"}
    encode_features(**places, output=tmp_path / f"{name}.zarr", device="cpu", manifest={"run": "r"})
    return FeatureShard.open(tmp_path / f"{name}.zarr")


def test_features_stand_in_text_order_and_match_the_plain_formula(tmp_path, monkeypatch):
    monkeypatch.setattr("deepseemoe.features.encode.SPAN", 1)
    monkeypatch.setattr("deepseemoe.features.encode.BATCH", 23)
    x_TLD = write_store(tmp_path / "store.zarr")
    dictionary = write_dictionary(tmp_path / "dictionary")
    shard = encode(tmp_path)
    assert ActivationStore(tmp_path / "store.zarr").text_order().tolist() != list(range(T))
    assert shard.token_ids.tolist() == list(range(T))
    assert shard.positions.tolist() == (np.arange(T) % 20).tolist()
    assert not shard.is_valid[shard.positions == 0].any()
    wanted = expected(dictionary, x_TLD, shard.is_valid)
    assert 0 < (wanted > 0).mean() < 0.5
    np.testing.assert_allclose(shard.matrix().toarray(), wanted, rtol=1e-4)
    weights = sampled_digest(tmp_path / "dictionary" / "weights.safetensors")
    told = {"run": "r", "window": "L01-L02", "weights": weights}
    assert shard.manifest == told | {"store": shard.manifest["store"]}


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    write_store(tmp_path / "store.zarr")
    write_dictionary(tmp_path / "dictionary")
    encode(tmp_path, "a")
    encode(tmp_path, "b")
    assert len(files(tmp_path / "a.zarr")) > 7
    assert files(tmp_path / "a.zarr") == files(tmp_path / "b.zarr")


def test_a_store_without_a_layer_of_the_window_is_refused(tmp_path):
    write_store(tmp_path / "store.zarr", layers=(1,))
    write_dictionary(tmp_path / "dictionary")
    with pytest.raises(ValueError, match="resid_post/L02"):
        encode(tmp_path)
    assert not list(tmp_path.glob("x.zarr*"))


def test_a_store_of_another_width_is_refused(tmp_path):
    write_store(tmp_path / "store.zarr", width=8)
    write_dictionary(tmp_path / "dictionary")
    with pytest.raises(ValueError, match="d_model 8, the dictionary 6"):
        encode(tmp_path)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 20), st.integers(0, 9))
def test_spans_hold_the_same_rows_as_places_and_cover_the_text(windows, least, seed):
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *windows])
    order = np.concatenate(
        [start + rng.permutation(size) for start, size in zip(starts, windows, strict=False)]
    )
    found = list(spans(order, least))
    assert [start for start, _ in found] == [0, *(stop for _, stop in found[:-1])]
    assert found[-1][1] == len(order)
    for start, stop in found:
        assert sorted(order[start:stop]) == list(range(start, stop))
        assert stop - start < least + max(windows)
    assert all(stop - start >= least for start, stop in found[:-1])


def encode_both(tmp_path, **changes):
    """Encode two stores as one job does; return the paths of the feature shards."""
    outputs = [tmp_path / "together" / name for name in ("00000.zarr", "00001.zarr")]
    stores = [tmp_path / "stores" / path.name for path in outputs]
    places = {"dictionary": tmp_path / "dictionary", "stores": stores, "outputs": outputs}
    encode_shards(**places, device="cpu", manifest={"run": "r"} | changes)
    return outputs


def test_the_shards_of_a_job_have_the_bytes_of_each_alone(tmp_path):
    write_dictionary(tmp_path / "dictionary")
    for seed in (0, 1):
        write_store(tmp_path / f"stores/0000{seed}.zarr", seed=seed)
    outputs = encode_both(tmp_path)
    assert sorted((tmp_path / "together").iterdir()) == outputs
    for output in outputs:
        (tmp_path / "stores" / output.name).rename(tmp_path / "store.zarr")
        encode(tmp_path, f"alone-{output.stem}")
        (tmp_path / "store.zarr").rename(tmp_path / "stores" / output.name)
        assert files(output) == files(tmp_path / f"alone-{output.name}")


@pytest.mark.parametrize(
    ("change", "n_made"), [(None, 1), ("store", 2), ("dictionary", 2), ("run", 2)]
)
def test_a_failed_job_costs_the_shard_it_was_at(tmp_path, monkeypatch, change, n_made):
    write_dictionary(tmp_path / "dictionary")
    for seed in (0, 1):
        write_store(tmp_path / f"stores/0000{seed}.zarr", seed=seed)
    made, failing = [], [1]

    def noting(*, output, **options):
        if len(made) in failing:
            raise InterruptedError("killed")
        made.append(output)
        encode_features(output=output, **options)

    monkeypatch.setattr("deepseemoe.features.shards.encode_features", noting)
    with pytest.raises(InterruptedError):
        encode_both(tmp_path)
    made.clear(), failing.clear()
    if change == "store":
        shutil.rmtree(tmp_path / "stores/00000.zarr")
        write_store(tmp_path / "stores/00000.zarr", seed=7)
    if change == "dictionary":
        write_dictionary(tmp_path / "dictionary", seed=7)
    encode_both(tmp_path, **({"run": "another"} if change == "run" else {}))
    assert len(made) == n_made
