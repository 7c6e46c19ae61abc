"""Models that were really changed, and a slow router: what interventions are held against."""

import copy
import math

import torch
from pruned_moe import groups_of
from torch import Tensor, nn

from deepseemoe.model.adapter import MoeModel


def with_silent_experts(model: MoeModel, drops: dict[int, list[int]]) -> MoeModel:
    """Return a copy in which the down projections of these experts, and their biases, are 0."""
    changed = copy.deepcopy(model.network)
    for layer, experts in drops.items():
        block = getattr(changed.model.layers[layer], model.spec.block)
        silence(getattr(block, model.spec.experts), experts)
    return MoeModel(changed)


def silence(module: nn.Module, experts: list[int] | slice) -> None:
    """Put 0 into the down projections of some experts."""
    down = [value for name, value in module.named_parameters() if "down_proj" in name]
    assert down
    for value in down:
        value.data[experts] = 0.0


def with_silent_shared(model: MoeModel, layers: list[int]) -> MoeModel:
    """Return a copy in which the down projections of the shared experts are 0."""
    changed = copy.deepcopy(model.network)
    for layer in layers:
        block = getattr(changed.model.layers[layer], model.spec.block)
        silence(getattr(block, model.spec.shared), slice(None))
    return MoeModel(changed)


def with_top_k(model: MoeModel, k: int) -> MoeModel:
    """Return a model of the same weights whose configuration has another top-k."""
    config = copy.deepcopy(model.network.config)
    config.num_experts_per_tok = k
    kernel = model.network.config._attn_implementation
    with torch.random.fork_rng():
        network = type(model.network)._from_config(config, attn_implementation=kernel)
    network.to(model.device, model.dtype).load_state_dict(model.network.state_dict())
    changed = MoeModel(network)
    assert changed.top_k == k
    return changed


def most_active(model: MoeModel) -> int:
    """Return how many experts a token can choose."""
    n_groups, n_kept = groups_of(model)
    return model.n_experts // n_groups * n_kept


def slow_masked_routing(
    model: MoeModel, layer: int, x_TD: Tensor, *, n_masked: int, banned: tuple[int, ...] = ()
) -> list[dict[int, float]]:
    """Return the weights of each token's experts, by loops over the published rules in float64."""
    return [_decided(model, layer, x_D, n_masked, banned) for x_D in x_TD.double()]


def _decided(model, layer, x_D, n_masked, banned) -> dict[int, float]:
    router = getattr(getattr(model.layers[layer], model.spec.block), model.spec.router)
    logits = (router.weight.double() @ x_D).tolist()
    if (bias := getattr(router, "bias", None)) is not None:
        logits = [logit + float(b) for logit, b in zip(logits, bias, strict=True)]
    left = [expert for expert in range(len(logits)) if expert not in banned]
    liking, gates = _likings(model, router, logits, left)
    left.sort(key=lambda expert: -liking[expert])
    allowed = _in_best_groups(model, {expert: liking[expert] for expert in left[n_masked:]})
    chosen = sorted(allowed, key=lambda expert: -liking[expert])[: router.top_k]
    return _weights(model, router, logits, gates, chosen)


def _likings(model, router, logits, left) -> tuple[dict[int, float], dict[int, float]]:
    """Return the scores that select, and the gates, of the experts that are left."""
    family = model.network.config.model_type
    total = sum(math.exp(logits[expert]) for expert in left)
    softmax = {expert: math.exp(logits[expert]) / total for expert in left}
    sigmoid = {expert: 1 / (1 + math.exp(-logits[expert])) for expert in left}
    if family in ("gpt_oss", "llama4_text"):
        return {expert: logits[expert] for expert in left}, sigmoid
    if family in ("deepseek_v3", "glm4_moe"):
        bias = router.e_score_correction_bias.tolist()
        return {expert: sigmoid[expert] + bias[expert] for expert in left}, sigmoid
    if family == "ernie4_5_moe":
        bias = router.moe_statics.e_score_correction_bias.flatten().tolist()
        return {expert: softmax[expert] + bias[expert] for expert in left}, softmax
    return softmax, softmax


def _in_best_groups(model, liking) -> list[int]:
    """Return the experts of the groups that a token may choose from."""
    n_groups, n_kept = groups_of(model)
    size = model.n_experts // n_groups
    n_counted = 2 if model.network.config.model_type in ("deepseek_v3", "glm4_moe") else 1
    members = {
        group: [expert for expert in liking if expert // size == group] for group in range(n_groups)
    }
    worth = {
        group: sum(sorted((liking[expert] for expert in ids), reverse=True)[:n_counted])
        for group, ids in members.items()
        if ids
    }
    kept = sorted(worth, key=lambda group: -worth[group])[:n_kept]
    return [expert for group in kept for expert in members[group]]


def _weights(model, router, logits, gates, chosen) -> dict[int, float]:
    config, family = model.network.config, model.network.config.model_type
    weights = {expert: gates[expert] for expert in chosen}
    if family == "gpt_oss":
        weights = {expert: math.exp(logits[expert]) for expert in chosen}
    sums_to_one = family in ("gpt_oss", "mixtral", "ernie4_5_moe") or (
        family != "deepseek_v2" and getattr(config, "norm_topk_prob", False)
    )
    if family == "deepseek" and router.top_k == 1:
        sums_to_one = False
    total = sum(weights.values()) if sums_to_one else 1.0
    factor = (
        config.routed_scaling_factor
        if family in ("deepseek_v2", "deepseek_v3", "glm4_moe")
        else 1.0
    )
    return {expert: factor * weight / total for expert, weight in weights.items()}
