"""Models out of which experts were cut: what a ban is held against."""

import copy

import torch

from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.routers import biased_sigmoid, group_limit

Bans = dict[int, list[int]]


def pruned(model: MoeModel, bans: Bans, **changes) -> MoeModel:
    """Return a copy without the banned experts; each MoE layer has to lose as many.

    `changes` are other keys of the configuration, such as the number of groups.
    """
    config = copy.deepcopy(model.network.config)
    (n_lost,) = {len(bans[layer]) for layer in model.moe_layers}
    for key, value in {model.spec.n_experts: model.n_experts - n_lost, **changes}.items():
        setattr(config, key, value)
    kernel = model.network.config._attn_implementation
    with torch.random.fork_rng():
        network = type(model.network)._from_config(config, attn_implementation=kernel)
    network.to(model.device, model.dtype).load_state_dict(_cut(model, bans))
    return MoeModel(network)


def kept_experts(model: MoeModel, banned: list[int]) -> torch.Tensor:
    """Return the old ids of a pruned model's experts."""
    kept = [n for n in range(model.n_experts) if n not in set(banned)]
    return torch.tensor(kept, device=model.device)


def _cut(model: MoeModel, bans: Bans) -> dict[str, torch.Tensor]:
    weights, spec = dict(model.network.state_dict()), model.spec
    for layer in model.moe_layers:
        block = f"layers.{layer}.{spec.block}"
        parts = (f"{block}.{spec.router}.", f"{block}.{spec.experts}.")
        for name in [name for name in weights if any(part in name for part in parts)]:
            axis = weights[name].shape.index(model.n_experts)  # 1 in Ernie's bias, 0 elsewhere
            weights[name] = weights[name].index_select(axis, kept_experts(model, bans[layer]))
    return weights


def groups_of(model: MoeModel) -> tuple[int, int]:
    """Return how many groups the model's experts form, and of how many a token may have experts."""
    block = getattr(model.layers[model.moe_layers[0]], model.spec.block)
    return group_limit(getattr(block, model.spec.router))


def n_bannable(model: MoeModel) -> int:
    """Return how many experts each group can lose, at most two, for a model of its family."""
    n_groups, n_kept = groups_of(model)
    size, least = model.n_experts // n_groups, 2 if model.spec.route is biased_sigmoid else 1
    fits = [n for n in (1, 2) if size - n >= least and n_kept * (size - n) >= model.top_k]
    return max(fits, default=0)


def even_bans(model: MoeModel, n_banned: int, seed: int = 0) -> Bans:
    """Return bans of `n_banned` random experts of each group of each layer."""
    rng = torch.Generator().manual_seed(seed)
    n_groups, _ = groups_of(model)
    size = model.n_experts // n_groups
    return {
        layer: [
            group * size + int(one)
            for group in range(n_groups)
            for one in torch.randperm(size, generator=rng)[:n_banned]
        ]
        for layer in model.moe_layers
    }
