"""Gates say what the dense formulas say, for all forms, and layer by layer as jointly."""

from itertools import product

import numpy as np
import pytest
import torch
from dense_reference import decoded, dense, preactivations, random_weights, skipped, topk_mask

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import PerFeature, TopK, Weighted, gate_of
from deepseemoe.dictionary.layout import n_slots
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.names import Window

D_MODEL, N_LAYERS, D_DICT = 10, 3, 64
FORMS = {
    "crosscoder": {"kind": "crosscoder"},
    "cross-layer": {"kind": "transcoder"},
    "per-layer": {"kind": "transcoder", "cross_layer": False},
    "skip": {"kind": "transcoder", "skip": True},
    "pre/post": {"kind": "transcoder", "reconstruct_input": True},
    "skip and pre/post": {
        "kind": "transcoder", "skip": True, "reconstruct_input": True, "cross_layer": False,
    },
}  # fmt: skip
GATES = ("weighted", "relu", "per_feature", "topk")
CASES = [*product(FORMS, GATES)]
TRANSCODERS = [case for case in CASES if case[0] != "crosscoder"]


def gate(name):
    rng = torch.Generator().manual_seed(8)
    return {
        "weighted": Weighted(1.5),
        "relu": Weighted(0.0),
        "per_feature": PerFeature(torch.randn(D_DICT, generator=rng) + 0.5),  # some are below 0
        "topk": TopK(7),
    }[name]


def normalisation(rng, n_slots):
    mean = 3 * torch.randn(n_slots, D_MODEL, generator=rng)
    return Normalisation(mean, torch.tensor([1.0, 0.3, 0.05, 2.0, 0.7, 4.0][:n_slots]))


def example(form, gate_name):
    settings = FORMS[form]
    _, weights = random_weights(
        n_layers=N_LAYERS, d_model=D_MODEL, d_dict=D_DICT, dtype=torch.float32, **settings
    )
    rng = torch.Generator().manual_seed(5)
    is_crosscoder = settings["kind"] == "crosscoder"
    both = settings.get("reconstruct_input", False)
    reading = normalisation(rng, N_LAYERS)
    writing = normalisation(rng, n_slots(N_LAYERS, reconstruct_input=both))
    return Dictionary(
        kind=settings["kind"],
        window=Window(4, 6),
        k=7,
        reads="resid_post" if is_crosscoder else "moe_in",
        writes="resid_post" if is_crosscoder else "moe_out",
        weights=weights,
        reading=reading,
        writing=reading if is_crosscoder else writing,
        gate=gate(gate_name),
        cross_layer=settings.get("cross_layer", True),
        reconstruct_input=both,
    )


def raw_inputs(dictionary, n_tokens=120):
    rng = torch.Generator().manual_seed(3)
    return dictionary.reading.undo(torch.randn(n_tokens, N_LAYERS, D_MODEL, generator=rng))


def dense_codes(dictionary, x_TLD):
    """Return activations (T, F) by the plain formula of the gate."""
    x_TC = dictionary.reading.apply(x_TLD).flatten(1)
    z_TF = preactivations(dictionary.weights, dictionary.parts, x_TC, D_MODEL)
    norm_F = torch.cat(
        [
            decoder.view(len(decoder), -1, D_MODEL).norm(dim=2).sum(1)
            for decoder in dictionary.weights.decoders
        ]
    )
    match dictionary.gate:
        case Weighted(threshold):
            is_active = z_TF * norm_F >= threshold
        case PerFeature(threshold_F):
            is_active = z_TF >= threshold_F
        case TopK(k):
            is_active = topk_mask(z_TF, norm_F, dictionary.parts, k)
    return z_TF * (is_active & (z_TF > 0))


@pytest.mark.parametrize(("form", "gate_name"), CASES)
def test_encode_and_decode_are_the_dense_formulas(form, gate_name):
    dictionary = example(form, gate_name)
    x = raw_inputs(dictionary)
    expected = dense_codes(dictionary, x)
    assert 1 < float((expected > 0).sum(1).float().mean()) < D_DICT * 0.7
    codes = dictionary.encode(x)
    found = np.zeros(expected.shape, np.float32)
    found[np.repeat(np.arange(len(x)), np.diff(codes.offsets)), codes.features] = codes.values
    assert np.array_equal(found > 0, expected.numpy() > 0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    x_TC = dictionary.reading.apply(x).flatten(1)
    y_TC = decoded(dictionary.weights, dictionary.parts, expected, D_MODEL)
    y_TC += dictionary.weights.decoder_bias + skipped(dictionary.weights, x_TC, D_MODEL)
    y = dictionary.writing.undo(y_TC.view(len(x), -1, D_MODEL))
    assert y.shape[1] == dictionary.n_slots
    torch.testing.assert_close(dictionary.decode(codes, x), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("form", "gate_name"), TRANSCODERS)
def test_a_transcoder_encodes_layer_by_layer_as_jointly(form, gate_name):
    dictionary = example(form, gate_name)
    x = raw_inputs(dictionary)
    joint, values = dense(dictionary.entries(x), (len(x), D_DICT))
    found = torch.zeros_like(values)
    for layer in range(N_LAYERS):
        entries = dictionary.entries(x[:, layer : layer + 1], layer=layer)
        assert bool((dictionary.source_layer_F[entries.features] == 4 + layer).all())
        found += dense(entries, values.shape)[1]
    assert torch.equal(found > 0, joint)
    torch.testing.assert_close(found, values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("form", "gate_name"), CASES)
def test_every_form_comes_back_from_its_files_to_the_bit(form, gate_name, tmp_path):
    dictionary = example(form, gate_name)
    dictionary.save(tmp_path / "one", manifest={"run": "x"})
    again = Dictionary.load(tmp_path / "one")
    again.save(tmp_path / "two", manifest={"run": "x"})
    for name in ("weights.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert again.gate.described() == dictionary.gate.described()
    assert again.parts == dictionary.parts
    assert again.written_names == dictionary.written_names
    for mine, theirs in zip(again.weights.tensors(), dictionary.weights.tensors(), strict=True):
        assert torch.equal(mine, theirs)
    x = raw_inputs(dictionary)
    for mine, theirs in zip(again.encode(x), dictionary.encode(x), strict=True):
        assert np.array_equal(mine, theirs)
    codes = dictionary.encode(x)
    assert torch.equal(again.decode(codes, x), dictionary.decode(codes, x))


def test_a_skip_transcoder_asks_for_what_it_encoded():
    dictionary = example("skip", "topk")
    codes = dictionary.encode(raw_inputs(dictionary))
    with pytest.raises(ValueError, match="transcoder on L04-L06 has skip connections.* pass x_TLD"):
        dictionary.decode(codes)


def test_slots_are_inputs_and_outputs_by_turns():
    dictionary = example("pre/post", "topk")
    assert dictionary.written_names == (
        "moe_in/L04", "moe_out/L04", "moe_in/L05", "moe_out/L05", "moe_in/L06", "moe_out/L06",
    )  # fmt: skip
    assert dictionary.written_names[dictionary.outputs] == (
        "moe_out/L04", "moe_out/L05", "moe_out/L06",
    )  # fmt: skip
    assert dictionary.decoder_FSD.shape == (D_DICT, 6, D_MODEL)
    assert torch.equal(dictionary.decoder_FLD, dictionary.decoder_FSD[:, 1::2])
    late = dictionary.source_layer_F == 6
    assert dictionary.decoder_FSD[late, :4].abs().max() == 0
    assert (dictionary.decoder_FSD[late, 4:].abs().amax(2) > 0).all()


@pytest.mark.parametrize("described", [{"kind": "gated"}, {}, {"kind": "per_feature"}])
def test_an_unknown_gate_is_refused(described):
    with pytest.raises(ValueError, match="expected kind weighted, topk or per_feature"):
        gate_of(described, None)
