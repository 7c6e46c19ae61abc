"""Interventions are held against models that were really changed, and against slow loops."""

from collections import Counter
from contextlib import ExitStack
from itertools import combinations, permutations
from types import SimpleNamespace

import pytest
import torch
from changed_moe import most_active, with_silent_shared, with_top_k
from intervention_claims import (
    a_drop_is_a_model_whose_experts_write_nothing,
    a_mask_is_what_slow_loops_decide,
    an_active_k_is_the_model_of_that_configuration,
    everywhere,
    same_to_the_bit,
    without_shared_is_a_model_whose_shared_experts_write_nothing,
)
from moe_claims import (
    at,
    close,
    recomputed_routing_is_the_routing_that_was_used,
    recorded,
)
from tiny_moe import FAMILIES, packed_batch, tiny_batch, tiny_network

from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.ban import _n_left

GROUPED = ("deepseek_v2", "deepseek_v3")  # four groups, of which a token may use two
SHARED = tuple(family for family in FAMILIES if MoeModel(tiny_network(family)).n_shared_experts)
TYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"]
)
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
TOKENS = packed_batch([[20, 12], [32]])


def model_of(family: str, dtype=torch.float32, **changes) -> MoeModel:
    """Return a model whose groups have four experts instead of two."""
    sizes = {"n_routed_experts": 16} if family in GROUPED else {}
    return MoeModel(tiny_network(family, dtype=dtype, **{**sizes, **changes}))


@pytest.fixture
def model() -> MoeModel:
    """A model whose layer 0 is dense and whose routers have eight experts, three for a token."""
    return MoeModel(tiny_network("qwen3_moe"))


@TYPES
@EVERY_FAMILY
def test_a_drop_is_a_model_whose_experts_write_nothing(family, dtype):
    model = model_of(family, dtype)
    first, *_ = model.moe_layers
    drops = {layer: [1, 4, 6] for layer in model.moe_layers}
    a_drop_is_a_model_whose_experts_write_nothing(model, drops, TOKENS)
    plain = recorded(model, TOKENS)
    with model.drop(drops):
        dropped = recorded(model, TOKENS)
        recomputed_routing_is_the_routing_that_was_used(model, dropped)
    routing = ("expert_ids", "expert_weights", "router_logits")
    for now, before in zip(at(dropped, first, *routing), at(plain, first, *routing), strict=True):
        assert torch.equal(now, before)
    assert not close(*at(dropped, first, "expert_out"), *at(plain, first, "expert_out"))


@EVERY_FAMILY
def test_what_a_drop_takes_is_the_weighted_output_of_its_experts(family):
    model = model_of(family)
    layer = model.moe_layers[0]
    plain = recorded(model, TOKENS)
    x, ids, weights, out = at(plain, layer, "moe_in", "expert_ids", "expert_weights", "expert_out")
    parts_TKD = model.expert_outputs(layer, x, ids, weights)
    is_dropped_TK = torch.isin(ids, torch.tensor([0, 3]))
    with model.drop({layer: [0, 3]}):
        (left,) = at(recorded(model, TOKENS), layer, "expert_out")
        assert torch.equal(model.expert_outputs(layer, x, ids, weights), parts_TKD)
    assert close(out - left, (parts_TKD * is_dropped_TK[..., None]).sum(1))


@TYPES
@pytest.mark.parametrize("family", SHARED)
def test_a_model_without_shared_is_one_whose_shared_experts_write_nothing(family, dtype):
    model = model_of(family, dtype)
    for layers in (list(model.moe_layers), list(model.moe_layers[1:])):
        without_shared_is_a_model_whose_shared_experts_write_nothing(model, layers, TOKENS)


@TYPES
@EVERY_FAMILY
def test_an_active_k_is_the_model_of_that_configuration(family, dtype):
    model = model_of(family, dtype)
    for k in (1, 2, model.top_k + 1, most_active(model)):
        an_active_k_is_the_model_of_that_configuration(model, k, TOKENS)


@EVERY_FAMILY
@pytest.mark.parametrize("n_masked", [1, 3])
def test_a_mask_is_what_slow_loops_over_the_published_rules_decide(family, n_masked):
    model = model_of(family)
    a_mask_is_what_slow_loops_decide(model, n_masked, TOKENS, banned=(2,))
    shares = dict.fromkeys(model.moe_layers, n_masked / model.n_experts)
    with model.mask_top(shares):
        recomputed_routing_is_the_routing_that_was_used(model, recorded(model, TOKENS))


@TYPES
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in GROUPED])
def test_a_mask_lets_a_token_choose_its_next_best_experts_with_their_scores(family, dtype):
    model = model_of(family, dtype)
    layer = model.moe_layers[0]
    (x,) = at(recorded(model), layer, "moe_in")
    plain = model.route(layer, x)
    with model.mask_top({layer: 2 / model.n_experts}):
        masked = model.route(layer, x)
    best = plain.scores_TE.topk(2, -1).indices
    assert torch.equal(masked.scores_TE, plain.scores_TE.scatter(-1, best, -torch.inf))
    chosen = plain.scores_TE.topk(2 + model.top_k, -1).values[:, 2:]
    found = masked.scores_TE.gather(-1, masked.ids_TK).sort(-1, descending=True).values
    assert torch.equal(found, chosen)


@TYPES
@pytest.mark.parametrize("family", GROUPED)
def test_a_mask_lets_groups_be_as_good_as_the_experts_left_to_a_token(family, dtype):
    """A mask that hits whole groups of some tokens leaves them what a ban of these would."""
    model = model_of(family, dtype)
    layer = model.moe_layers[-1]
    (x,) = at(recorded(model), layer, "moe_in")
    with model.mask_top({layer: 5 / model.n_experts}):
        masked = model.route(layer, x)
    n_closed = masked.logits_TE.new_zeros(len(x))
    for token, scores_E in enumerate(masked.scores_TE):
        n_closed[token] = scores_E.isneginf().sum()
        groups = masked.ids_TK[token] // 4
        assert len(groups.unique()) <= 2
        assert not scores_E[masked.ids_TK[token]].isneginf().any()
    assert (n_closed >= 5).all()


@EVERY_FAMILY
def test_interventions_that_ask_for_nothing_change_no_bit(family):
    model = model_of(family)
    before = everywhere(model, TOKENS)
    layers = model.moe_layers
    with (
        model.drop(dict.fromkeys(layers, ())),
        model.mask_top(dict.fromkeys(layers, 0.0)),
        model.active_k(dict.fromkeys(layers, model.top_k)),
        model.without_shared([]),
    ):
        same_to_the_bit(everywhere(model, TOKENS), before)
    same_to_the_bit(everywhere(model, TOKENS), before)


@TYPES
@pytest.mark.parametrize("family", SHARED)
def test_one_more_routed_expert_in_place_of_shared_ones_is_the_changed_model(family, dtype):
    model = model_of(family, dtype)
    layers = model.moe_layers
    with (
        model.without_shared(layers),
        model.active_k(dict.fromkeys(layers, model.top_k + 1)),
    ):
        acts = everywhere(model, TOKENS)
    other = with_top_k(with_silent_shared(model, list(layers)), model.top_k + 1)
    same_to_the_bit(acts, everywhere(other, TOKENS))


@EVERY_FAMILY
def test_the_order_in_which_interventions_begin_does_not_matter(family):
    model = model_of(family)
    layers = model.moe_layers
    begin = [
        lambda: model.ban(dict.fromkeys(layers, (0,))),
        lambda: model.mask_top(dict.fromkeys(layers, 1 / model.n_experts)),
        lambda: model.active_k(dict.fromkeys(layers, 2)),
        lambda: model.drop(dict.fromkeys(layers, (3, 5))),
        lambda: model.edit({f"expert_out/L{layers[0]:02d}": lambda x: x * 2}),
    ]
    if family in SHARED:
        begin[3:3] = [lambda: model.without_shared(layers)]
        begin[-1] = lambda: model.edit({f"shared_out/L{layers[0]:02d}": lambda x: x + 1})
    plain, found = everywhere(model, TOKENS), []
    for order in list(permutations(begin))[:: 120 if family in SHARED else 24]:
        with ExitStack() as stack:
            for one in order:
                stack.enter_context(one())
            found.append(everywhere(model, TOKENS))
    for other in found[1:]:
        same_to_the_bit(other, found[0])
    if family in SHARED:  # taken out before the edit, which adds 1
        assert (at(found[0], layers[0], "shared_out")[0] == 1).all()
    assert not torch.isin(found[0][f"expert_ids/L{layers[0]:02d}"], torch.tensor([0])).any()
    same_to_the_bit(everywhere(model, TOKENS), plain)


def test_interventions_inside_each_other_add_up_and_end_apart(model):
    tokens = tiny_batch()
    plain = model.logits(tokens)
    with model.mask_top({1: 0.25}):
        outer = model.logits(tokens)
        with model.mask_top({1: 0.125}), model.active_k({1: 4}), model.active_k({1: 2}):
            three = recorded(model, tokens)
        assert torch.equal(model.logits(tokens), outer)
    assert torch.equal(model.logits(tokens), plain)
    with model.mask_top({1: 0.375}), model.active_k({1: 2}):
        same_to_the_bit(recorded(model, tokens), three)
    with model.drop({1: [0]}), model.drop({1: [1, 0], 2: [5]}):
        nested = recorded(model, tokens)
    with model.drop({2: [5], 1: [0, 1]}):
        same_to_the_bit(recorded(model, tokens), nested)


def test_nothing_is_left_behind_not_even_after_an_error(model):
    block = model.layers[1].mlp

    def fails() -> None:
        with model.drop({1: [0]}), model.active_k({1: 5}), model.mask_top({1: 0.25}):
            assert block.gate.top_k == 5
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        fails()
    assert block.gate.top_k == 3
    assert not block.gate._forward_hooks
    assert not block.experts._forward_pre_hooks


@pytest.mark.parametrize(
    ("name", "asked", "what"),
    [
        ("drop", {1: [0]}, "drop"),
        ("mask_top", {1: 0.25}, "mask"),
        ("active_k", {1: 2}, "active k"),
    ],
)
def test_an_intervention_that_does_not_reach_its_module_is_an_error(
    model, monkeypatch, name, asked, what
):
    monkeypatch.setattr(model.layers[1].mlp, "forward", lambda x: x)  # as fused kernels do
    with (
        pytest.raises(ValueError, match=f"the {what} at L01 fired 0 times"),
        getattr(model, name)(asked),
    ):
        model.logits(tiny_batch())


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        (
            "drop",
            {0: [1], 1: [7, 8, -1], 9: [0]},
            "these drops are not possible: L00: layer 0 is dense; layers with experts are 1, 2; "
            "L01: there is no expert -1, 8, the last is 7; L09: the model's last layer is 2",
        ),
        (
            "active_k",
            {0: 2, 1: 9, 2: 0},
            "these numbers of active experts are not possible: L00: layer 0 is dense; layers with "
            "experts are 1, 2; L01: k 9 experts a token is not from 1 to 8, all there are; "
            "L02: k 0 experts a token is not from 1 to 8, all there are",
        ),
        (
            "mask_top",
            {0: 0.5, 1: 1.0, 2: 0.01},
            "these masks are not possible: L00: layer 0 is dense; layers with experts are 1, 2; "
            "L01: share 1 of the experts is not from 0 to less than 1; "
            "L02: share 0.01 of 8 experts is none; one is 0.125",
        ),
        (
            "mask_top",
            {1: 0.75, 2: float("nan")},
            "these masks are not possible: "
            "L02: share nan of the experts is not from 0 to less than 1",
        ),
        (
            "mask_top",
            {1: 0.75, 2: 0.625},
            "these masks are not possible: "
            "L01: a token may have only 2 experts left, and each needs 3",
        ),
        (
            "without_shared",
            [1, 7],
            "these layers are not possible: L01: the model has no shared experts; "
            "L07: the model's last layer is 2",
        ),
    ],
)
def test_all_that_is_wrong_is_said_in_one_line(model, name, asked, message):
    with pytest.raises(ValueError, match="not possible") as error, getattr(model, name)(asked):
        pytest.fail("it began")
    assert str(error.value) == message
    assert torch.equal(model.logits(tiny_batch()), model.logits(tiny_batch()))


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        (("ban", {1: [0, 1, 2]}), ("mask_top", {1: 0.375})),
        (("mask_top", {1: 0.375}), ("ban", {1: [0, 1, 2]})),
        (("active_k", {1: 6}), ("mask_top", {1: 0.375})),
        (("mask_top", {1: 0.375}), ("active_k", {1: 6})),
    ],
)
def test_interventions_that_leave_too_few_experts_only_together_are_refused(model, outer, inner):
    with (
        getattr(model, outer[0])(outer[1]),
        pytest.raises(ValueError, match="L01: a token may have only . experts left"),
        getattr(model, inner[0])(inner[1]),
    ):
        pytest.fail("it began")
    with getattr(model, inner[0])(inner[1]):
        recorded(model)


@pytest.mark.parametrize(("n_groups", "size", "n_kept"), [(1, 5, 1), (2, 3, 1), (3, 2, 2)])
def test_the_fewest_experts_that_a_token_may_have_left_is_the_worst_case(n_groups, size, n_kept):
    """Hold the bound against all ways to mask: whichever groups of those left are the best."""
    experts = set(range(n_groups * size))
    router = SimpleNamespace(weight=torch.zeros(len(experts), 1), topk_group=n_kept)
    router.num_group = n_groups
    for banned in ({0}, {0, 1}, {1, 2, 4}, set()):
        for n_masked in range(len(experts - banned)):
            worst = len(experts)
            for masked in combinations(experts - banned, n_masked):
                left = Counter(expert // size for expert in experts - banned - set(masked))
                n_some = min(n_kept, len(left))
                worst = min(worst, sum(sorted(left.values())[:n_some]))
            assert _n_left(router, banned, n_masked) == worst


@pytest.mark.parametrize("family", GROUPED)
def test_what_may_leave_too_few_experts_in_the_groups_of_a_token_is_refused(family):
    model = model_of(family)  # a token has two groups of four; it needs three experts
    with model.mask_top({1: 5 / 16}):
        recorded(model)
    with (
        pytest.raises(ValueError, match="L01: a token may have only 2 experts left"),
        model.mask_top({1: 6 / 16}),
    ):
        pytest.fail("it began")
    with (
        pytest.raises(ValueError, match="L01: a token may have only 8 experts left, and .* 9"),
        model.active_k({1: 9}),
    ):
        pytest.fail("it began")
