"""Layers are spread over devices by their bytes, and what does not fit is refused unread."""

from functools import partial
from itertools import pairwise, product

import pytest
import torch
from accelerate import dispatch_model
from hypothesis import given
from hypothesis import strategies as st
from tiny_moe import FAMILIES, tiny_batch, tiny_network
from transformers import GptOssConfig

from deepseemoe.config import ModelConfig
from deepseemoe.model import placement
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.checkpoint import Checkpoint
from deepseemoe.model.loading import load_model
from deepseemoe.model.outline import outline
from deepseemoe.model.placement import device_map, parts_of, spread
from deepseemoe.names import ROUTING_ARRAYS

SIZES = st.lists(st.integers(0, 50), min_size=1, max_size=7)


def fullest(sizes, chosen) -> int:
    return max(sum(size for size, at in zip(sizes, chosen, strict=True) if at == n) for n in chosen)


@given(SIZES, st.integers(1, 4))
def test_the_fullest_device_is_as_empty_as_runs_of_neighbours_allow(sizes, n_devices):
    chosen = spread(sizes, n_devices)
    runs = [
        at
        for at in product(range(n_devices), repeat=len(sizes))
        if all(b - a in (0, 1) for a, b in pairwise((0, *at)))
    ]
    assert chosen in runs
    assert fullest(sizes, chosen) == min(fullest(sizes, at) for at in runs)


def test_a_large_embedding_takes_layers_off_the_first_device():
    assert spread([30, 10, 10, 10, 10, 10, 0], 2) == (0, 0, 1, 1, 1, 1, 1)
    assert spread([0, 10, 10, 10, 10, 30], 2) == (0, 0, 0, 0, 0, 1)


def test_more_devices_than_parts_leave_the_last_ones_empty():
    assert spread([1, 1], 4) == (0, 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("has_head", [True, False])
def test_every_weight_has_a_place_and_is_counted_once(family, has_head):
    whole = tiny_network(family)
    network = whole if has_head else whole.model
    parts = parts_of(network)
    places = device_map(parts, ["cuda:0", "cuda:1"])
    names = [name for name, _ in [*network.named_parameters(), *network.named_buffers()]]
    assert all(any(name.startswith(f"{module}.") for module in places) for name in names)
    tensors = [*network.parameters(), *network.buffers()]
    assert sum(part.n_bytes for part in parts) == sum(t.numel() * t.element_size() for t in tensors)


def test_a_head_that_is_the_embedding_stays_with_it():
    tied = parts_of(tiny_network("olmoe", tie_word_embeddings=True))
    assert "lm_head" in tied[0].modules
    assert "lm_head" in parts_of(tiny_network("olmoe"))[-1].modules


def test_packed_experts_count_their_four_bits():
    network = tiny_network("gpt_oss")
    plain, packed = (parts_of(network, is_packed=is_it)[1].n_bytes for is_it in (False, True))
    experts = network.model.layers[0].mlp.experts
    n_weights = experts.gate_up_proj.numel() + experts.down_proj.numel()
    assert plain - packed == n_weights * 4 - n_weights * 17 // 32


def test_sizes_are_those_of_a_published_model():
    """gpt-oss-120b, the default of its configuration: 116.8 billion parameters, 60.8 GiB packed."""
    whole = Checkpoint("gpt-oss-120b", None, 36, GptOssConfig())
    network = outline(whole, head=True, dtype="bfloat16").network
    sizes = [sum(p.n_bytes for p in parts_of(network, is_packed=is_it)) for is_it in (False, True)]
    assert sizes[0] == pytest.approx(2 * 116.8e9, rel=0.001)
    assert sizes[1] / 2**30 == pytest.approx(60.8, rel=0.001)


@pytest.fixture
def checkpoint(tmp_path):
    tiny_network("olmoe").save_pretrained(tmp_path)
    return ModelConfig(source="hub", name=str(tmp_path))


def test_a_model_that_does_not_fit_is_refused_with_what_to_write(checkpoint, monkeypatch, tmp_path):
    (tmp_path / "model.safetensors").unlink()  # nobody looks for it
    monkeypatch.setattr(placement, "free_bytes", lambda device: 2**10)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    told = r"its weights need 0.0 GiB on cpu, where 0.0 GiB are free; read lower layers .*bfloat16"
    with pytest.raises(ValueError, match=told):
        load_model(checkpoint, None)
    told = r"on cuda:0, .* and 0.0 GiB on cuda:1, .* over more GPUs \(as devices.activations: 3\)"
    with pytest.raises(ValueError, match=told):
        load_model(checkpoint, None, devices=["cuda:0", "cuda:1"])


def test_fewer_layers_may_fit_where_all_do_not(checkpoint, monkeypatch):
    parts = parts_of(load_model(checkpoint, None).network)
    monkeypatch.setattr(placement, "free_bytes", lambda device: sum(p.n_bytes for p in parts[:3]))
    with pytest.raises(ValueError, match="weights need"):
        load_model(checkpoint, None)
    assert load_model(checkpoint, None, n_layers=1).n_layers == 1


def sites_of(model: MoeModel) -> list[str]:
    sites = [f"{p}/L{n:02d}" for n in range(3) for p in ("resid_pre", "resid_mid", "resid_post")]
    return sites + [f"{a}/L{n:02d}" for n in model.moe_layers for a in ("moe_in", *ROUTING_ARRAYS)]


def check_same(spread_model: MoeModel, model: MoeModel, *, exact: bool = True) -> None:
    """Assert that two models compute the same values, recorded and edited, and experts' outputs."""

    def is_same(found, expected):
        close = torch.equal if exact else partial(torch.allclose, rtol=1e-3, atol=1e-4)
        return close(found.cpu(), expected.cpu())

    double = {"resid_mid/L01": lambda value: value * 2, "resid_post/L02": lambda value: value / 2}
    for edits in ({}, double):
        with spread_model.record(sites_of(model)) as found, spread_model.edit(edits):
            spread_model.hidden_states(tiny_batch())
        with model.record(sites_of(model)) as expected, model.edit(edits):
            model.hidden_states(tiny_batch())
        assert all(is_same(found[site], expected[site]) for site in expected)
    layer = model.moe_layers[-1]
    check_same_interventions(spread_model, model, is_same)
    names = [f"{a}/L{layer:02d}" for a in ("moe_in", "expert_ids", "expert_weights")]
    assert is_same(
        spread_model.expert_outputs(layer, *(found[name] for name in names)),
        model.expert_outputs(layer, *(expected[name] for name in names)),
    )
    assert is_same(
        spread_model.route(layer, found[names[0]]).weights_TK,
        model.route(layer, expected[names[0]]).weights_TK,
    )


def check_same_interventions(spread_model: MoeModel, model: MoeModel, is_same) -> None:
    layers, found = model.moe_layers, []
    for one in (spread_model, model):
        with (
            one.drop(dict.fromkeys(layers, (1,))),
            one.mask_top(dict.fromkeys(layers, 1 / one.n_experts)),
            one.active_k(dict.fromkeys(layers, 2)),
            one.without_shared(layers if one.n_shared_experts else ()),
        ):
            found.append(one.hidden_states(tiny_batch()))
    assert is_same(*found)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_seen_and_edited_through_the_hooks_that_move_them(family):
    places = device_map(parts_of(network := tiny_network(family)), ["cpu"])
    dispatched = dispatch_model(network, places, main_device="cpu", force_hooks=True)
    assert hasattr(dispatched.model.layers[1], "_hf_hook")
    check_same(MoeModel(dispatched), MoeModel(tiny_network(family)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU beside the CPU")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_on_the_cpu_and_a_gpu_computes_as_on_the_cpu(family):
    places = device_map(parts_of(network := tiny_network(family)), ["cpu", "cuda:0"])
    dispatched = MoeModel(dispatch_model(network, places, main_device="cpu"))
    assert [device.type for device in dispatched.devices] == ["cpu", "cuda"]
    check_same(dispatched, MoeModel(tiny_network(family)), exact=False)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_on_two_gpus_computes_as_on_one(family, tmp_path):
    tiny_network(family).save_pretrained(tmp_path)
    config = ModelConfig(source="hub", name=str(tmp_path))
    one = load_model(config, None, devices=["cuda:0"])
    two = load_model(config, None, devices=["cuda:0", "cuda:1"])
    assert len(two.devices) == 2
    check_same(two, one)
