"""A ban is held against models out of which the experts were really cut."""

import pytest
import torch
from moe_claims import a_ban_is_a_model_without_these_experts, recorded
from pruned_moe import even_bans
from tiny_moe import FAMILIES, tiny_batch, tiny_network

from deepseemoe.model.adapter import MoeModel

GROUPED = ("deepseek_v2", "deepseek_v3")  # four groups, of which a token may use two


def model_of(family: str, dtype=torch.float32, **changes) -> MoeModel:
    """Return a model that can lose experts: groups of four instead of two."""
    sizes = {"n_routed_experts": 16} if family in GROUPED else {}
    return MoeModel(tiny_network(family, dtype=dtype, **{**sizes, **changes}))


@pytest.fixture
def model() -> MoeModel:
    """A model whose layer 0 is dense and whose routers have eight experts, three for a token."""
    return MoeModel(tiny_network("qwen3_moe"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("n_banned", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_ban_is_a_model_without_these_experts(family, n_banned, dtype):
    model = model_of(family, dtype)
    a_ban_is_a_model_without_these_experts(model, even_bans(model, n_banned), tiny_batch(4, 32))


@pytest.mark.parametrize("family", ["glm4_moe", *GROUPED])
def test_a_ban_of_whole_groups_is_a_model_without_these_groups(family):
    model = model_of(family, n_routed_experts=16, n_group=4, topk_group=2)
    bans = {1: [4, 5, 6, 7], 2: [15, 12, 13, 14]}
    a_ban_is_a_model_without_these_experts(model, bans, tiny_batch(4, 32), n_group=3)


@pytest.mark.parametrize("family", ["deepseek_v3", "glm4_moe", "ernie4_5_moe"])
def test_a_bias_does_not_bring_a_banned_expert_back(family):
    model = model_of(family)
    for layer in model.moe_layers:
        gate = model.layers[layer].mlp.gate
        bias_E = getattr(gate, "moe_statics", gate).e_score_correction_bias.view(-1)
        bias_E[5] = 100.0
    assert (recorded(model)["expert_ids/L01"] == 5).any(-1).all()
    with model.ban({1: [5]}):
        acts = recorded(model)
    assert not (acts["expert_ids/L01"] == 5).any()
    assert (acts["expert_ids/L02"] == 5).any(-1).all()


def test_a_group_is_as_good_as_the_experts_that_it_has_left():
    model = model_of("deepseek_v3", n_routed_experts=8, n_group=4, topk_group=1)
    gate = model.layers[1].mlp.gate
    gate.weight.zero_()
    gate.top_k = 1
    gate.e_score_correction_bias.copy_(torch.tensor([5.0, 4.0, 6.0, 2.0, 3.0, 2.0, -9.0, 1.0]))
    x = torch.zeros(1, model.d_model)

    def chosen(*banned: int) -> int:
        with model.ban({1: banned}):
            return model.route(1, x).ids_TK.item()

    assert chosen() == 0  # 5 + 4 beats 6 + 2
    assert chosen(1) == 2  # 5 alone does not
    assert chosen(0, 3) == 2  # but 6 alone beats 4 alone and 3 + 2
    assert chosen(0, 1, 2, 3) == 4
    assert chosen(0, 1, 2, 3, 4, 5, 7) == 6  # a group that is empty is no better than -9


def test_all_that_is_wrong_with_a_ban_is_said_in_one_line(model):
    bans = {0: [1], 1: [7, 8, -1], 2: [0, 1, 2, 3, 4, 5], 9: [0]}
    with pytest.raises(ValueError, match="not possible: L00") as error, model.ban(bans):
        pytest.fail("the ban began")
    assert str(error.value) == (
        "these bans are not possible: L00: layer 0 is dense; layers with experts are 1, 2; "
        "L01: there is no expert -1, 8, the last is 7; "
        "L02: a token may have only 2 experts left, and each needs 3; "
        "L09: the model's last layer is 2"
    )
    with model.ban({2: [0, 1, 2, 3, 4]}):
        assert set(recorded(model)["expert_ids/L02"].unique().tolist()) == {5, 6, 7}


@pytest.mark.parametrize("family", GROUPED)
def test_a_ban_that_may_leave_too_few_experts_in_the_groups_of_a_token_is_refused(family):
    model = model_of(family)  # two groups of four, three experts
    with (
        pytest.raises(ValueError, match="L01: a token may have only 2 experts left"),
        model.ban({1: [0, 1, 2, 4, 5, 6]}),
    ):
        pytest.fail("the ban began")
    with model.ban({1: [0, 1, 2, 4, 5, 6, 7]}):  # the second group is gone: 1 + 4 are left
        recorded(model)


def test_bans_inside_bans_add_up_and_end_apart(model):
    tokens = tiny_batch()
    plain = model.logits(tokens)
    with model.ban({1: [0, 1], 2: [3]}):
        outer = model.logits(tokens)
        with model.ban({1: [1, 2]}):
            both = recorded(model)
            with (
                pytest.raises(ValueError, match="L01: a token may have only 2"),
                model.ban({1: [5, 6, 7]}),
            ):
                pytest.fail("the ban began")
        assert not torch.isin(both["expert_ids/L01"], torch.tensor([0, 1, 2])).any()
        assert not (both["expert_ids/L02"] == 3).any()
        assert torch.equal(model.logits(tokens), outer)
    assert torch.equal(model.logits(tokens), plain)
    assert not torch.allclose(plain, outer)


def test_recorders_and_edits_see_what_was_decided_again(model):
    with (
        model.record(["expert_ids/L01", "expert_out/L01", "router_logits/L01"], stop=True) as acts,
        model.edit({"expert_out/L01": lambda x: x * 2}),
        model.ban({1: [4]}),
    ):
        model.hidden_states(tiny_batch())
    assert not (acts["expert_ids/L01"] == 4).any()
    plain = recorded(model)
    assert torch.equal(acts["router_logits/L01"], plain["router_logits/L01"])  # of all experts
    with model.ban({1: [4]}):
        assert torch.equal(acts["expert_out/L01"], 2 * recorded(model)["expert_out/L01"])


def test_a_ban_that_does_not_reach_the_router_is_an_error(model, monkeypatch):
    block = model.layers[1].mlp
    monkeypatch.setattr(block, "forward", lambda x: x)  # as fused kernels do
    with pytest.raises(ValueError, match="the ban at L01 fired 0 times"), model.ban({1: [0]}):
        model.logits(tiny_batch())


def test_no_hook_is_left_behind(model):
    router = model.layers[1].mlp.gate
    with model.ban({1: [0]}):
        assert len(router._forward_hooks) == 1
    assert not router._forward_hooks
