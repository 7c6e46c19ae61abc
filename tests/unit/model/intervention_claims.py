"""What interventions have to be for a model of any family and configuration."""

from collections.abc import Callable
from random import Random

import pytest
import torch
from changed_moe import (
    most_active,
    slow_masked_routing,
    with_silent_experts,
    with_silent_shared,
    with_top_k,
)
from moe_claims import (
    Acts,
    at,
    experts_get_the_recorded_decisions,
    nearly_all_close,
    recorded,
)

from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.tokens import TokenBatch


def everywhere(model: MoeModel, tokens: TokenBatch) -> Acts:
    """Return all recorded values, and the logits."""
    return {**recorded(model, tokens), "logits": model.logits(tokens)}


def same_to_the_bit(acts: Acts, others: Acts) -> None:
    """Assert that two forward passes had the same values everywhere."""
    assert acts.keys() == others.keys()
    assert [name for name in acts if not torch.equal(acts[name], others[name])] == []


def nearly_the_same(acts: Acts, others: Acts) -> None:
    """Assert that two forward passes led to the same logits, where kernels add in any order."""
    assert nearly_all_close(acts["logits"].flatten(0, 1), others["logits"].flatten(0, 1))


Same = Callable[[Acts, Acts], None]


def a_drop_is_a_model_whose_experts_write_nothing(
    model: MoeModel, drops: dict[int, list[int]], tokens: TokenBatch, same: Same = same_to_the_bit
) -> None:
    with model.drop(drops):
        acts = everywhere(model, tokens)
    same(acts, everywhere(with_silent_experts(model, drops), tokens))


def without_shared_is_a_model_whose_shared_experts_write_nothing(
    model: MoeModel, layers: list[int], tokens: TokenBatch, same: Same = same_to_the_bit
) -> None:
    with model.without_shared(layers):
        acts = everywhere(model, tokens)
    same(acts, everywhere(with_silent_shared(model, layers), tokens))
    assert not any(at(acts, layer, "shared_out")[0].any() for layer in layers)


def an_active_k_is_the_model_of_that_configuration(
    model: MoeModel, k: int, tokens: TokenBatch, same: Same = same_to_the_bit
) -> None:
    with model.active_k(dict.fromkeys(model.moe_layers, k)):
        acts = everywhere(model, tokens)
        experts_get_the_recorded_decisions(model, tokens)
        for layer in model.moe_layers:
            x, ids, weights = at(acts, layer, "moe_in", "expert_ids", "expert_weights")
            again = model.route(layer, x)
            assert ids.shape[1] == k
            assert torch.equal(again.ids_TK, ids)
            assert torch.equal(again.weights_TK, weights)
    same(acts, everywhere(with_top_k(model, k), tokens))


def a_mask_is_what_slow_loops_decide(
    model: MoeModel, n_masked: int, tokens: TokenBatch, *, banned: tuple[int, ...] = ()
) -> None:
    """Hold routing under masks against loops in float64; `model` is in float32."""
    shares = dict.fromkeys(model.moe_layers, n_masked / model.n_experts)
    with model.ban(dict.fromkeys(model.moe_layers, banned)), model.mask_top(shares):
        acts = recorded(model, tokens)
        experts_get_the_recorded_decisions(model, tokens)
    for layer in model.moe_layers:
        x, ids, weights = at(acts, layer, "moe_in", "expert_ids", "expert_weights")
        slow = slow_masked_routing(model, layer, x, n_masked=n_masked, banned=banned)
        for token, expected in enumerate(slow):
            found = dict(zip(ids[token].tolist(), weights[token].tolist(), strict=True))
            assert found.keys() == expected.keys()
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def interventions_are_changed_models(
    model: MoeModel, tokens: TokenBatch, *, seed: int = 0, same: Same = same_to_the_bit
) -> None:
    """Assert all claims, with random experts, layers and numbers."""
    rng = Random(seed)
    drops = {
        layer: rng.sample(range(model.n_experts), rng.randint(1, model.n_experts))
        for layer in rng.sample(model.moe_layers, rng.randint(1, len(model.moe_layers)))
    }
    a_drop_is_a_model_whose_experts_write_nothing(model, drops, tokens, same)
    if model.n_shared_experts:
        layers = list(drops)
        without_shared_is_a_model_whose_shared_experts_write_nothing(model, layers, tokens, same)
    k = rng.randint(1, most_active(model))
    an_active_k_is_the_model_of_that_configuration(model, k, tokens, same)
    n_spare = most_active(model) - model.top_k
    if n_spare and model.dtype == torch.float32:
        a_mask_is_what_slow_loops_decide(model, rng.randint(1, n_spare), tokens)
