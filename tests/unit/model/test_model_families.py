"""Every family of the adapter table is held to the same claims, in float32 and in bfloat16."""

import moe_claims
import pytest
import torch
from moe_claims import all_sites, recorded
from tiny_moe import FAMILIES, tiny_batch, tiny_config, tiny_network

from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.spec import SPECS, sizes_of, spec_for
from deepseemoe.names import HOOK_POINTS, Site

VARIANTS = [
    *((family, {}) for family in FAMILIES),
    ("olmoe", {"norm_topk_prob": True}),
    ("deepseek", {"norm_topk_prob": True, "n_shared_experts": None}),
    ("deepseek", {"moe_layer_freq": 2, "num_hidden_layers": 5}),
    ("deepseek_v2", {"topk_method": "greedy"}),
    ("deepseek_v3", {"norm_topk_prob": False}),
    ("llama4_text", {"num_experts_per_tok": 1, "attention_chunk_size": None}),
    ("nanomoe", {"norm_topk_prob": False, "n_shared_experts": 0}),
]
IDS = ["-".join([family, *changes]) for family, changes in VARIANTS]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def model(request, family, changes):
    return MoeModel(tiny_network(family, dtype=request.param, **changes))


every_variant = pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=IDS)
every_family = pytest.mark.parametrize("family", FAMILIES)


def test_the_table_covers_the_tested_families():
    assert set(SPECS) == set(FAMILIES)


@every_variant
@pytest.mark.parametrize("claim", moe_claims.IDENTITIES, ids=lambda claim: claim.__name__)
def test_the_identities_hold(model, claim):
    claim(model, recorded(model))


@every_variant
def test_what_is_recorded_is_what_the_experts_were_called_with(model):
    moe_claims.experts_get_the_recorded_decisions(model, tiny_batch())


@every_variant
def test_a_packed_document_gets_what_it_gets_alone(model):
    moe_claims.a_packed_document_gets_what_it_gets_alone(model, [[11, 1, 20], [7, 25], [32]])


@every_variant
def test_an_edit_that_changes_nothing_is_exactly_no_edit(model):
    moe_claims.an_edit_that_changes_nothing_is_exactly_no_edit(model, tiny_batch())


@every_family
def test_one_document_gets_what_transformers_gives_it(family):
    model = MoeModel(tiny_network(family))
    moe_claims.one_document_gets_what_transformers_gives_it(model, tiny_batch())


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
    if at["shared_out"] is not None and point != "moe_out":
        assert torch.equal(at["expert_out"] + at["shared_out"], at["moe_out"])


@every_family
def test_sizes_are_those_of_the_weights(family):
    sizes, model = sizes_of(tiny_config(family)), MoeModel(tiny_network(family))
    layer = model.moe_layers[0]
    assert (model.n_experts, model.d_model) == tuple(model.router_weight(layer).shape)
    assert sizes.top_k == model.top_k == 3
    block = moe_claims.block(model, layer)
    assert sizes.d_expert in block.experts.down_proj.shape[1:]
    assert sizes.n_layers == len(model.layers)
    shared = getattr(block, model.spec.shared or "", None)
    width = shared.down_proj.weight.shape[1] if shared else 0
    assert sizes.n_shared_experts * sizes.d_expert == width


def test_an_unknown_family_names_the_known_ones():
    with pytest.raises(ValueError, match="'llama' is no .* known are deepseek, deepseek_v2"):
        spec_for("llama")
