"""Skip and pre/post transcoders in place of the blocks of a running model."""

from dataclasses import replace

import pytest
import torch
from small_moe import D_MODEL, N_LAYERS, random_transcoder, small_model, tokens_of, write_split

from deepseemoe.dictionary.evaluate import evaluate_dictionary
from deepseemoe.dictionary.gates import Weighted
from deepseemoe.dictionary.splice import transcoder_edits, zero_edits
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.names import Window

WINDOW = Window(1, 2)
SITES = [f"{p}/L{n:02d}" for p in ("resid_post", "moe_in", "moe_out") for n in range(N_LAYERS)]
FORMS = {
    "skip": {"skip": True},
    "pre/post": {"reconstruct_input": True},
    "skip and pre/post": {"skip": True, "reconstruct_input": True},
    "per-layer, skip and pre/post": {
        "skip": True, "reconstruct_input": True, "cross_layer": False,
    },
}  # fmt: skip


def make_linear(model, window):
    """Make blocks linear, with routers that still decide, and return their maps (L, D, D)."""
    rng = torch.Generator().manual_seed(4)
    maps_LDD = 0.5 * torch.randn(len(window.layers), D_MODEL, D_MODEL, generator=rng)
    for map_DD, layer in zip(maps_LDD, window.layers, strict=True):
        block = model.network.model.layers[layer].mlp

        def forward(hidden, pooling=None, block=block, map_DD=map_DD):
            block.gate(hidden)
            return hidden @ map_DD.t()

        block.forward = forward
    return maps_LDD


def perfect(maps_LDD, window, **form):
    """Return a transcoder that is the maps: partly by features, in pairs, partly by its skips."""
    dictionary = random_transcoder(window, cross_layer=False, skip=True, **form)
    weights, reading, writing = dictionary.weights, dictionary.reading, dictionary.writing
    skips = []
    for layer, map_DD in enumerate(maps_LDD):
        slot = range(dictionary.n_slots)[dictionary.outputs][layer]
        scale = writing.scale_L[slot] / reading.scale_L[layer]
        encoder, decoder = weights.encoders[layer], weights.decoders[layer]
        half = len(encoder) // 2
        encoder[half:], decoder[half:] = -encoder[:half], -decoder[:half]
        skips.append(scale * map_DD - decoder[:half, -D_MODEL:].t() @ encoder[:half])
        offset_D = (map_DD @ reading.mean_LD[layer] - writing.mean_LD[slot]) * writing.scale_L[slot]
        weights.decoder_bias[slot * D_MODEL : (slot + 1) * D_MODEL] = offset_D
    weights.encoder_bias.zero_()
    return replace(dictionary, weights=weights._replace(skips=tuple(skips)), gate=Weighted(0.0))


@pytest.mark.parametrize("form", [{}, {"reconstruct_input": True}], ids=["skip", "pre/post"])
def test_a_perfect_skip_transcoder_changes_nothing(form, tmp_path):
    model = small_model()
    dictionary = perfect(make_linear(model, WINDOW), WINDOW, **form)
    dictionary.save(tmp_path / "dictionary")
    split = write_split(tmp_path, model, SITES)

    def metrics():
        return evaluate_dictionary(
            tmp_path / "dictionary",
            model=model, stores=split.stores, tokens=split.tokens, metrics=tmp_path / "m.json",
        )  # fmt: skip

    found = metrics()
    assert found["fvu"] == pytest.approx([0, 0], abs=1e-4)  # stores are bfloat16
    assert found["loss_recovered"] == pytest.approx(1, abs=1e-4)
    assert found["router_agreement"] == 1
    assert found["l0"] == pytest.approx(20, abs=1)  # one of each pair
    assert ("fvu_inputs" in found) == bool(form)
    if form:
        assert min(found["fvu_inputs"]) > 0.1  # random; nothing of it reaches the model

    skips = [torch.zeros_like(skip) for skip in dictionary.weights.skips]
    without = replace(dictionary, weights=dictionary.weights._replace(skips=tuple(skips)))
    without.save(tmp_path / "dictionary")
    assert metrics()["loss_recovered"] < 0.9


@pytest.mark.parametrize("form", FORMS)
def test_only_moe_out_is_replaced_layer_after_layer(form):
    dictionary, model = random_transcoder(WINDOW, **FORMS[form]), small_model()
    tokens = tokens_of(0)
    batch = TokenBatch.from_arrays(tokens.token_ids_SN, tokens.positions_SN)
    is_valid = (batch.positions != 0).flatten()

    def run(edits):
        with model.edit(edits), model.record(SITES) as acts:
            model.hidden_states(batch)
        return acts

    def outputs(acts):
        x_TLD = torch.stack([acts[f"moe_in/L{layer:02d}"] for layer in WINDOW.layers], dim=1)
        return dictionary.decode(dictionary.encode(x_TLD), x_TLD)[:, dictionary.outputs]

    def put(rows_TD):
        return lambda value: torch.where(is_valid[:, None], rows_TD, value)

    assert set(zero_edits(dictionary, is_valid)) == {"moe_out/L01", "moe_out/L02"}
    clean = run({})
    first = put(outputs(clean)[:, 0])
    halfway = run({"moe_out/L01": first})
    expected = run({"moe_out/L01": first, "moe_out/L02": put(outputs(halfway)[:, 1])})
    found = run(transcoder_edits(dictionary, is_valid))
    assert torch.equal(found["moe_in/L01"], clean["moe_in/L01"])
    assert not torch.equal(found["moe_out/L01"], clean["moe_out/L01"])
    for site in SITES:
        torch.testing.assert_close(found[site], expected[site], rtol=1e-4, atol=1e-4)
