"""Every family of the adapter table is held to the same claims, in float32 and in bfloat16."""

import pytest
import torch
from tiny_moe import FAMILIES, packed_batch, tiny_batch, tiny_config, tiny_network

from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.spec import SPECS, sizes_of, spec_for
from deepseemoe.names import HOOK_POINTS, ROUTING_ARRAYS, Site

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2}
VARIANTS = [
    *((family, {}) for family in FAMILIES),
    ("olmoe", {"norm_topk_prob": True}),
    ("deepseek_v2", {"topk_method": "greedy"}),
    ("deepseek_v3", {"norm_topk_prob": False}),
    ("nanomoe", {"norm_topk_prob": False, "n_shared_experts": 0}),
]
IDS = ["-".join([family, *changes]) for family, changes in VARIANTS]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request):
    return request.param


@pytest.fixture
def model(request, dtype):
    family, changes = request.param
    return MoeModel(tiny_network(family, dtype=dtype, **changes))


every_variant = pytest.mark.parametrize("model", VARIANTS, indirect=True, ids=IDS)
every_family = pytest.mark.parametrize("family", FAMILIES)


def all_sites(model: MoeModel) -> list[str]:
    """Return every site that the model has."""
    points = [p for p in HOOK_POINTS if p != "shared_out" or model.n_shared_experts]
    moe_only = {"expert_out", "shared_out", *ROUTING_ARRAYS}
    return [
        str(Site(point, layer))
        for layer in range(model.n_layers)
        for point in (*points, *ROUTING_ARRAYS)
        if layer in model.moe_layers or point not in moe_only
    ]


def recorded(model: MoeModel, tokens=None) -> dict[str, torch.Tensor]:
    with model.record(all_sites(model)) as acts:
        model.hidden_states(tokens or tiny_batch())
    return acts


def close(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> bool:
    scale = max(1.0, b.float().abs().max().item())
    return (a.float() - b.float()).abs().max().item() <= TOLERANCE[dtype] * scale


def test_the_table_covers_the_tested_families():
    assert set(SPECS) == set(FAMILIES)


@every_variant
def test_the_residual_stream_is_the_sum_of_what_is_written(model, dtype):
    acts = recorded(model)
    for layer in range(model.n_layers):
        at = {point: acts.get(f"{point}/L{layer:02d}") for point in HOOK_POINTS}
        assert torch.equal(at["resid_pre"] + at["attn_out"], at["resid_mid"])
        assert torch.equal(at["resid_mid"] + at["moe_out"], at["resid_post"])
        if layer:
            assert torch.equal(at["resid_pre"], acts[f"resid_post/L{layer - 1:02d}"])


@every_variant
def test_the_block_is_the_sum_of_its_experts(model, dtype):
    acts = recorded(model)
    assert model.moe_layers
    for layer in model.moe_layers:
        out = acts[f"expert_out/L{layer:02d}"]
        if model.n_shared_experts:
            out = out + acts[f"shared_out/L{layer:02d}"]
        if model.spec.block_out_norm:
            out = getattr(model.network.base_model.layers[layer], model.spec.block_out_norm)(out)
        assert close(out, acts[f"moe_out/L{layer:02d}"], dtype)


@every_variant
def test_the_router_reads_moe_in(model, dtype):
    acts = recorded(model)
    for layer in range(model.n_layers):
        mid, moe_in = acts[f"resid_mid/L{layer:02d}"], acts[f"moe_in/L{layer:02d}"]
        if model.spec.router_norm is None:
            assert torch.equal(mid, moe_in)
        else:
            power = mid.float().square().mean(-1, keepdim=True)
            scale = (power + model.network.config.rms_norm_eps).sqrt()
            assert close(mid / scale * model.router_gain(layer), moe_in, dtype)


@every_variant
def test_recomputed_routing_is_the_routing_that_was_used(model, dtype):
    acts = recorded(model)
    for layer in model.moe_layers:
        name = f"L{layer:02d}"
        ids, weights = acts[f"expert_ids/{name}"], acts[f"expert_weights/{name}"]
        assert ids.shape == weights.shape == (48, model.top_k)
        assert (weights.diff(dim=-1) <= 0).all()
        again = model.route(layer, acts[f"moe_in/{name}"])
        assert torch.equal(again.logits_TE, acts[f"router_logits/{name}"])
        assert torch.equal(again.ids_TK, ids)
        assert torch.equal(again.weights_TK, weights)
        best = again.scores_TE.topk(model.top_k, -1).values
        assert torch.equal(again.scores_TE.gather(1, ids).sort(-1, descending=True).values, best)


@every_variant
def test_router_rows_times_input_are_the_logits(model, dtype):
    acts = recorded(model)
    for layer in model.moe_layers:
        logits = acts[f"moe_in/L{layer:02d}"].float() @ model.router_weight(layer).float().T
        bias = getattr(model.network.base_model.layers[layer].mlp, "router", None)
        logits = logits + bias.bias.float() if bias else logits
        assert close(logits, acts[f"router_logits/L{layer:02d}"], dtype)


@every_variant
def test_outputs_of_chosen_experts_sum_to_the_routed_output(model, dtype):
    acts = recorded(model)
    for layer in model.moe_layers:
        names = ("moe_in", "expert_ids", "expert_weights")
        x, ids, weights = (acts[f"{name}/L{layer:02d}"] for name in names)
        parts = model.expert_outputs(layer, x, ids, weights)
        assert parts.shape == (48, model.top_k, model.d_model)
        assert close(parts.float().sum(1), acts[f"expert_out/L{layer:02d}"], dtype)
        plain = model.expert_outputs(layer, x, ids[:, 1:2], torch.ones_like(weights[:, :1]))
        assert close(plain[:, 0] * weights[:, 1:2], parts[:, 1], dtype)


@every_variant
def test_a_packed_document_gets_what_it_gets_alone(model, dtype):
    lengths = [[11, 1, 20], [7, 25], [32]]
    tokens = packed_batch(lengths)
    packed = model.hidden_states(tokens)
    assert model.logits(tokens).shape == (3, 32, 96)
    for row, parts in enumerate(lengths):
        start = 0
        for length in parts:
            part = tuple(t[row : row + 1, start : start + length] for t in tokens)
            alone = model.hidden_states(type(tokens)(*part))
            limit = 1e-5 if dtype == torch.float32 else 0.5  # a leak makes 4; near ties may flip
            assert (packed[row, start : start + length] - alone[0]).abs().max() < limit
            start += length


@every_family
def test_one_document_gets_what_transformers_gives_it(family):
    tokens = tiny_batch()
    model = MoeModel(tiny_network(family))
    native = {"attn_implementation": "eager"} if family == "gpt_oss" else {}
    with torch.no_grad():
        network = tiny_network(family, **native).eval()
        expected = network(tokens.token_ids, use_cache=False, output_hidden_states=True)
    assert torch.allclose(model.logits(tokens), expected.logits, atol=1e-5)
    assert torch.allclose(model.hidden_states(tokens), expected.hidden_states[-1], atol=1e-5)
    acts = recorded(model, tokens)
    for layer in range(model.n_layers):
        native_pre = expected.hidden_states[layer].flatten(0, 1)
        assert torch.allclose(acts[f"resid_pre/L{layer:02d}"], native_pre, atol=1e-5)


@every_variant
def test_an_edit_that_changes_nothing_is_exactly_no_edit(model, dtype):
    tokens = tiny_batch()
    before = model.logits(tokens)
    sites = [site for site in all_sites(model) if Site.parse(site).hook_point in HOOK_POINTS]
    identity = dict.fromkeys(sites, lambda value: value)
    with model.edit(identity):
        assert torch.equal(model.logits(tokens), before)
    assert torch.equal(model.logits(tokens), before)


@pytest.mark.parametrize(
    ("family", "point"),
    [(f, p) for f in FAMILIES for p in HOOK_POINTS if p != "shared_out" or SPECS[f].shared],
)
def test_a_recorder_sees_the_edited_value_and_what_follows_from_it(family, point):
    model = MoeModel(tiny_network(family))
    before, site = recorded(model), f"{point}/L01"
    with model.record(all_sites(model)) as acts, model.edit({site: lambda x: x + 1.0}):
        model.hidden_states(tiny_batch())
    assert torch.equal(acts[site], before[site] + 1.0)
    for earlier in all_sites(model):
        if Site.parse(earlier).layer < 1:
            assert torch.equal(acts[earlier], before[earlier])
    assert not torch.allclose(acts["resid_post/L02"], before["resid_post/L02"])
    at = {name: acts.get(f"{name}/L01") for name in HOOK_POINTS}
    if point != "resid_mid":
        assert torch.equal(at["resid_pre"] + at["attn_out"], at["resid_mid"])
    if point != "resid_post":
        assert torch.equal(at["resid_mid"] + at["moe_out"], at["resid_post"])


@every_family
def test_sizes_are_those_of_the_weights(family):
    sizes, model = sizes_of(tiny_config(family)), MoeModel(tiny_network(family))
    layer = model.moe_layers[0]
    assert (model.n_experts, model.d_model) == tuple(model.router_weight(layer).shape)
    assert sizes.top_k == model.top_k == 3
    experts = model.network.base_model.layers[layer].mlp.experts
    assert sizes.d_expert in experts.down_proj.shape[1:]
    assert sizes.n_layers == len(model.network.base_model.layers)
    shared = getattr(model.network.base_model.layers[layer].mlp, "shared_experts", None)
    width = shared.down_proj.weight.shape[1] if shared else 0
    assert sizes.n_shared_experts * sizes.d_expert == width


def test_an_unknown_family_names_the_known_ones():
    with pytest.raises(ValueError, match="'llama' is no .* known are deepseek_v2, deepseek_v3"):
        spec_for("llama")
