"""A dictionary as other stages meet it: files, raw units, encode and decode."""

import json

import numpy as np
import pytest
import torch
from dense_reference import preactivations, random_weights

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import Weighted
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.names import Window

D_MODEL, N_LAYERS, D_DICT = 10, 3, 64
KINDS = ["crosscoder", "transcoder"]


def normalisation(rng):
    mean = 3 * torch.randn(N_LAYERS, D_MODEL, generator=rng)
    return Normalisation(mean, torch.tensor([1.0, 0.3, 0.05]))


def example(kind, *, threshold=0.7, dtype=torch.float32):
    _, weights = random_weights(
        kind, n_layers=N_LAYERS, d_model=D_MODEL, d_dict=D_DICT, dtype=dtype
    )
    rng = torch.Generator().manual_seed(5)
    reading = normalisation(rng)
    return Dictionary(
        kind=kind,
        window=Window(4, 6),
        k=7,
        reads="resid_post" if kind == "crosscoder" else "moe_in",
        writes="resid_post" if kind == "crosscoder" else "moe_out",
        weights=weights,
        reading=reading,
        writing=reading if kind == "crosscoder" else normalisation(rng),
        gate=Weighted(threshold),
        l0=6.98,
    )


def raw_inputs(dictionary, n_tokens=200, seed=3):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n_tokens, N_LAYERS, D_MODEL, generator=rng)
    return dictionary.reading.undo(x)


def dense_codes(dictionary, x_TLD):
    """Return thresholded activations (T, F) by the plain formula on normalised inputs."""
    x_TC = dictionary.reading.apply(x_TLD).flatten(1)
    z_TF = preactivations(dictionary.weights, dictionary.parts, x_TC, D_MODEL)
    is_active = (z_TF > 0) & (z_TF * dictionary.norm_F >= dictionary.gate.threshold)
    return z_TF * is_active


def as_dense(codes):
    dense = np.zeros((len(codes.offsets) - 1, D_DICT), np.float32)
    tokens = np.repeat(np.arange(len(dense)), np.diff(codes.offsets))
    dense[tokens, codes.features] = codes.values
    return torch.from_numpy(dense)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_dictionary_comes_back_to_the_bit(kind, tmp_path):
    dictionary = example(kind)
    dictionary.save(tmp_path / "one", manifest={"run": "x"})
    again = Dictionary.load(tmp_path / "one")
    again.save(tmp_path / "two", manifest={"run": "x"})
    for name in ("weights.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    for mine, theirs in zip(again.weights.tensors(), dictionary.weights.tensors(), strict=True):
        assert torch.equal(mine, theirs)
    for name in ("kind", "window", "k", "reads", "writes", "gate", "l0"):
        assert getattr(again, name) == getattr(dictionary, name)
    x = raw_inputs(dictionary)
    for mine, theirs in zip(again.encode(x), dictionary.encode(x), strict=True):
        assert np.array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "format 1, expected 2"),
        ({"format": None}, "format None, expected 2"),
        ({"kind": "autoencoder"}, "kind 'autoencoder', expected one of crosscoder, transcoder"),
    ],
)
def test_another_format_is_refused(change, message, tmp_path):
    example("crosscoder").save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        Dictionary.load(tmp_path)


def test_a_folder_without_a_dictionary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="it has no config.json; run train_dictionary"):
        Dictionary.load(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_encode_is_the_thresholded_formula(kind):
    dictionary = example(kind)
    x = raw_inputs(dictionary)
    codes = dictionary.encode(x)
    expected = dense_codes(dictionary, x)
    assert 1 < float((expected > 0).sum(1).float().mean()) < D_DICT / 2
    torch.testing.assert_close(as_dense(codes), expected, rtol=1e-4, atol=1e-5)
    assert codes.offsets.dtype == np.int64
    assert codes.values.dtype == np.float32
    assert (codes.values > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_folded_weights_give_the_same_codes_and_outputs_on_raw_activations(kind):
    dictionary = example(kind)
    x = raw_inputs(dictionary)
    z_TF = torch.einsum("tld,fld->tf", x, dictionary.encoder_FLD) + dictionary.encoder_bias_F
    x_TC = dictionary.reading.apply(x).flatten(1)
    expected = preactivations(dictionary.weights, dictionary.parts, x_TC, D_MODEL)
    torch.testing.assert_close(z_TF, expected, rtol=1e-4, atol=1e-4)
    codes = dictionary.encode(x)
    output = torch.einsum("tf,fld->tld", as_dense(codes), dictionary.decoder_FLD)
    torch.testing.assert_close(
        dictionary.decode(codes), output + dictionary.decoder_bias_SD, rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_without_active_features_decode_to_the_bias(kind):
    dictionary = example(kind, threshold=1e9)
    codes = dictionary.encode(raw_inputs(dictionary, n_tokens=5))
    assert codes.offsets.tolist() == [0] * 6
    assert torch.equal(dictionary.decode(codes), dictionary.decoder_bias_SD.expand(5, -1, -1))


def test_no_tokens_encode_to_no_codes():
    dictionary = example("crosscoder")
    codes = dictionary.encode(torch.empty(0, N_LAYERS, D_MODEL))
    assert codes.offsets.tolist() == [0]
    assert len(codes.features) == len(codes.values) == 0


def test_blocks_of_tokens_do_not_change_the_codes(monkeypatch):
    dictionary = example("transcoder")
    x = raw_inputs(dictionary)
    whole = dictionary.encode(x)
    monkeypatch.setattr("deepseemoe.dictionary.dictionary.BLOCK_TOKENS", 64)
    for mine, theirs in zip(dictionary.encode(x.numpy()), whole, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def test_a_wrong_shape_is_refused():
    with pytest.raises(
        ValueError, match=r"encodes \(T, 3, 10\), raw resid_post .* shape \(4, 10\)"
    ):
        example("crosscoder").encode(torch.zeros(4, D_MODEL))


def test_a_transcoder_reads_its_source_and_writes_nothing_before_it():
    dictionary = example("transcoder")
    source = dictionary.source_layer_F - 4
    assert torch.bincount(source).tolist() == [22, 21, 21]
    for feature in range(D_DICT):
        reads = dictionary.encoder_FLD[feature].abs().amax(1) > 0
        writes = dictionary.decoder_FLD[feature].abs().amax(1) > 0
        assert reads.tolist() == [layer == source[feature] for layer in range(N_LAYERS)]
        assert writes.tolist() == [layer >= source[feature] for layer in range(N_LAYERS)]


def test_one_layer_of_a_transcoder_encodes_alone_as_with_the_others():
    dictionary = example("transcoder")
    x = raw_inputs(dictionary)
    expected = dense_codes(dictionary, x)
    for layer, part in enumerate(dictionary.parts):
        entries = dictionary.entries(x[:, layer : layer + 1], layer=layer)
        found = torch.zeros_like(expected)
        found[entries.tokens, entries.features] = entries.values
        mine = slice(part.first, part.stop)
        torch.testing.assert_close(found[:, mine], expected[:, mine], rtol=1e-4, atol=1e-5)
        assert len(entries.values) == int((expected[:, mine] > 0).sum())
