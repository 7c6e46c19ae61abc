"""Ablated, scaled and added features are held against hooks that do it by hand."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_moe import D_MODEL, N_LAYERS, plain, random_transcoder, small_model, tokens_of

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import Weighted
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.dictionary.steering import ablated, added, decoder_rows, edits_of, scaled
from deepseemoe.dictionary.weights import Weights
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.names import Window

WINDOW = Window(1, 3)
SHARD = tokens_of(0)
TOKENS = TokenBatch.from_arrays(SHARD.token_ids_SN, SHARD.positions_SN)
N_TOKENS = SHARD.token_ids_SN.size
FORMS = {
    "crosscoder": None,
    "cross-layer transcoder": {},
    "per-layer transcoder": {"cross_layer": False},
    "skip transcoder": {"skip": True},
    "pre/post transcoder": {"reconstruct_input": True},
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS)


def random_crosscoder(window: Window, *, d_dict: int = 40) -> Dictionary:
    """Return a crosscoder with random weights and scales."""
    rng = torch.Generator().manual_seed(3)
    n = len(window.layers)
    draw = lambda *shape: 0.4 * torch.randn(*shape, generator=rng)  # noqa: E731
    weights = Weights(
        (draw(d_dict, n * D_MODEL),), draw(d_dict),
        (draw(d_dict, n * D_MODEL),), draw(n * D_MODEL),
    )  # fmt: skip
    norm = Normalisation(draw(n, D_MODEL), 1 + draw(n).abs())
    sites = ("resid_post", "resid_post")
    return Dictionary("crosscoder", window, 8, *sites, weights, norm, norm, Weighted(0.5))


def dictionary_of(form: str) -> Dictionary:
    options = FORMS[form]
    return random_crosscoder(WINDOW) if options is None else random_transcoder(WINDOW, **options)


def encoded(model, dictionary):
    """Return what the dictionary reads in a clean run, and its codes."""
    with model.record(dictionary.read_names) as acts:
        model.hidden_states(TOKENS)
    x_TLD = torch.stack([acts[name].float() for name in dictionary.read_names], dim=1)
    return x_TLD, dictionary.encode(x_TLD)


def dense(codes, d_dict):
    """Return codes as a matrix (T, F)."""
    z_TF = torch.zeros(len(codes.offsets) - 1, d_dict)
    for token in range(len(z_TF)):
        for entry in range(codes.offsets[token], codes.offsets[token + 1]):
            z_TF[token, codes.features[entry]] = float(codes.values[entry])
    return z_TF


@contextmanager
def by_hand(model, dictionary, added_TLD, layers):
    """Add to what decoder layers, or their blocks, return: hooks of torch, not of the library."""
    handles = []
    for place, layer in enumerate(dictionary.window.layers):
        module = model.network.model.layers[layer]
        module = module if dictionary.writes == "resid_post" else module.mlp

        def add(module, args, output, place=place):
            return (output + added_TLD[:, place].view(output.shape)).to(output.dtype)

        if layer in layers:
            handles.append(module.register_forward_hook(add))
    yield
    for handle in handles:
        handle.remove()


def some_features(codes, n=3):
    """Return features that are often active."""
    return np.bincount(codes.features).argsort()[::-1][:n].tolist()


def nearly(found, expected):
    scale = expected.abs().max().item()
    tolerance = 2e-5 if expected.dtype == torch.float32 else 2e-2
    return (found - expected).abs().max().item() <= tolerance * max(1, scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("factor", [0.0, 2.5])
@EVERY_FORM
def test_a_scaled_feature_is_what_hooks_by_hand_add(form, factor, dtype):
    model, dictionary = small_model(), dictionary_of(form)
    model.network.to(dtype)
    _, codes = encoded(model, dictionary)
    features = some_features(codes)
    z_TF = dense(codes, dictionary.d_dict)[:, features]
    decoder_FLD = dictionary.decoder_FLD[features]
    change_TLD = (factor - 1) * torch.einsum("tf,fld->tld", z_TF, decoder_FLD)
    change = scaled(dictionary, codes, features, factor=factor)
    clean = model.logits(TOKENS)

    with by_hand(model, dictionary, change_TLD, WINDOW.layers):
        expected = model.logits(TOKENS)
    with model.edit(edits_of(dictionary, change, carried=False)):
        assert nearly(model.logits(TOKENS), expected)
    assert not nearly(clean, expected)

    if dictionary.kind == "crosscoder":
        change_TLD[:, 1:] -= change_TLD[:, :-1].clone()
        with by_hand(model, dictionary, change_TLD, WINDOW.layers):
            expected = model.logits(TOKENS)
        with model.edit(edits_of(dictionary, change)):
            assert nearly(model.logits(TOKENS), expected)
    assert torch.equal(model.logits(TOKENS), clean)


@EVERY_FORM
def test_at_one_layer_only_what_passes_there_is_changed(form):
    model, dictionary = small_model(), dictionary_of(form)
    _, codes = encoded(model, dictionary)
    features = some_features(codes, 40)
    change = ablated(dictionary, codes, features)
    z_TF = dense(codes, dictionary.d_dict)
    for layer in WINDOW.layers:
        written_TLD = torch.einsum("tf,fld->tld", z_TF, dictionary.decoder_FLD)
        with by_hand(model, dictionary, -written_TLD, [layer]):
            expected = model.logits(TOKENS)
        edits = edits_of(dictionary, change, layers=[layer])
        assert list(edits) == [f"{dictionary.writes}/L{layer:02d}"]
        with model.edit(edits):
            assert nearly(model.logits(TOKENS), expected)


@EVERY_FORM
def test_ablated_features_are_gone_from_the_reconstruction(form):
    """What the edits add at all layers is what the reconstruction loses, in raw units."""
    model, dictionary = small_model(), dictionary_of(form)
    x_TLD, codes = encoded(model, dictionary)
    features = some_features(codes)
    kept = ~np.isin(codes.features, features)
    tokens = np.repeat(np.arange(N_TOKENS), np.diff(codes.offsets))[kept]
    offsets = np.concatenate([[0], np.bincount(tokens, minlength=N_TOKENS).cumsum()])
    rest = codes._replace(offsets=offsets, features=codes.features[kept], values=codes.values[kept])
    lost_TLD = (dictionary.decode(rest, x_TLD) - dictionary.decode(codes, x_TLD))[
        :, dictionary.outputs
    ]
    edits = edits_of(dictionary, ablated(dictionary, codes, features), carried=False)
    for place, edit in enumerate(edits.values()):
        torch.testing.assert_close(edit(torch.zeros(N_TOKENS, D_MODEL)), lost_TLD[:, place],
                                   rtol=1e-4, atol=1e-4)  # fmt: skip


def test_a_feature_is_taken_from_the_residual_stream_once():
    """Where later layers add nothing, the stream lacks z * d_l at each layer, not several."""
    model = small_model()
    for layer in model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.experts.down_proj.zero_()
        layer.mlp.shared_experts.down_proj.weight.zero_()
    dictionary = random_crosscoder(WINDOW)
    x_TLD, codes = encoded(model, dictionary)
    features = some_features(codes)
    expected_TLD = x_TLD - torch.einsum(
        "tf,fld->tld", dense(codes, 40)[:, features], dictionary.decoder_FLD[features]
    )
    change = ablated(dictionary, codes, features)
    with model.edit(edits_of(dictionary, change)), model.record(dictionary.read_names) as acts:
        model.hidden_states(TOKENS)
    for place, name in enumerate(dictionary.read_names):
        torch.testing.assert_close(acts[name], expected_TLD[:, place], rtol=1e-4, atol=1e-4)
    edits = edits_of(dictionary, change, layers=[1, 3])
    with model.edit(edits), model.record(dictionary.read_names) as acts:
        model.hidden_states(TOKENS)
    last = acts[dictionary.read_names[2]]
    torch.testing.assert_close(last, expected_TLD[:, 2], rtol=1e-4, atol=1e-4)


@EVERY_FORM
def test_added_amounts_are_units_of_the_feature(form):
    model, dictionary = small_model(), dictionary_of(form)
    amounts_T = torch.linspace(-1, 1, N_TOKENS)
    change = added(dictionary, {2: 3.0, 0: amounts_T.numpy()}, n_tokens=N_TOKENS)
    z_TF = torch.stack([torch.full((N_TOKENS,), 3.0), amounts_T], dim=1)
    change_TLD = torch.einsum("tf,fld->tld", z_TF, dictionary.decoder_FLD[[2, 0]])
    with by_hand(model, dictionary, change_TLD, WINDOW.layers):
        expected = model.logits(TOKENS)
    with model.edit(edits_of(dictionary, change, carried=False)):
        assert nearly(model.logits(TOKENS), expected)


def test_given_activations_taken_away_are_an_ablation():
    model, dictionary = small_model(), dictionary_of("crosscoder")
    _, codes = encoded(model, dictionary)
    (feature,) = some_features(codes, 1)
    z_T = dense(codes, 40)[:, feature].numpy()
    ours = added(dictionary, {feature: -z_T}, n_tokens=N_TOKENS)
    for one, other in zip(ours, ablated(dictionary, codes, [feature]), strict=True):
        np.testing.assert_array_equal(one, other)


@EVERY_FORM
def test_rows_of_some_features_are_those_of_the_whole_decoder(form):
    dictionary = dictionary_of(form)
    wanted = [39, 0, 17, 17, 25]
    assert torch.equal(decoder_rows(dictionary, wanted), dictionary.decoder_FSD[wanted])


def test_tokens_without_a_change_keep_every_bit():
    model, dictionary = small_model(), dictionary_of("crosscoder")
    amounts_T = np.zeros(N_TOKENS)
    amounts_T[5] = 2.0
    edits = edits_of(dictionary, added(dictionary, {1: amounts_T}, n_tokens=N_TOKENS))
    value_TD = torch.randn(N_TOKENS, D_MODEL)
    for edit in edits.values():
        new_TD = edit(value_TD)
        assert (new_TD != value_TD).any(1).nonzero().flatten().tolist() == [5]
    clean = model.logits(TOKENS)
    with model.edit(edits_of(dictionary, added(dictionary, {}, n_tokens=N_TOKENS))):
        assert torch.equal(model.logits(TOKENS), clean)


def test_a_transcoder_changes_no_layer_before_the_one_it_reads():
    dictionary = dictionary_of("cross-layer transcoder")
    change = added(dictionary, {39: 1.0}, n_tokens=N_TOKENS)  # reads L03
    zero_TD = torch.zeros(N_TOKENS, D_MODEL)
    moved = {site: bool(edit(zero_TD).any()) for site, edit in edits_of(dictionary, change).items()}
    assert moved == {"moe_out/L01": False, "moe_out/L02": False, "moe_out/L03": True}
    with pytest.raises(ValueError, match="none of the 1 features to change writes L01, L02: a"):
        edits_of(dictionary, change, layers=[1, 2, 3])


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        (lambda d, codes: ablated(d, codes, [0, 40, -1]),
         "the crosscoder on L01-L03 has no feature 40, -1; its last is 39"),
        (lambda d, codes: added(d, {40: 1.0}, n_tokens=5),
         "the crosscoder on L01-L03 has no feature 40; its last is 39"),
        (lambda d, codes: edits_of(d, codes._replace(features=codes.features + 40)),
         "the crosscoder on L01-L03 has no feature"),
        (lambda d, codes: added(d, {1: [1.0, 2.0]}, n_tokens=5),
         r"feature 1: amounts have shape \(2,\); expected one number, or \(5,\)"),
        (lambda d, codes: added(d, {1: float("inf")}, n_tokens=5),
         "feature 1: an amount is not finite"),
        (lambda d, codes: edits_of(d, codes, layers=[0, 2, 4]),
         "crosscoder on L01-L03 can be changed at its layers, and L00, L04 was asked for"),
        (lambda d, codes: edits_of(d, codes, layers=[]), "and none was asked for"),
        (lambda d, codes: edits_of(d, codes)["resid_post/L01"](torch.zeros(7, D_MODEL)),
         f"resid_post/L01: the change of features is of {N_TOKENS} tokens, and the .* has 7"),
    ],
)  # fmt: skip
def test_what_is_not_possible_is_said_in_one_line(fails, message):
    dictionary = dictionary_of("crosscoder")
    _, codes = encoded(small_model(), dictionary)
    with pytest.raises(ValueError, match=message) as error:
        fails(dictionary, codes)
    assert "\n" not in str(error.value)


def test_a_window_of_one_layer_is_a_plain_sae():
    window = Window(N_LAYERS - 1, N_LAYERS - 1)
    dictionary = replace(random_crosscoder(window), reading=plain(1), writing=plain(1))
    change = added(dictionary, {4: 1.5}, n_tokens=N_TOKENS)
    (edit,) = edits_of(dictionary, change).values()
    expected_TD = 1.5 * dictionary.weights.decoders[0][4].expand(N_TOKENS, -1)
    assert torch.equal(edit(torch.zeros(N_TOKENS, D_MODEL)), expected_TD)
