"""Masks: each token does without the experts that its router likes best, and takes the next ones.

Figure 4 of DeepSeekMoE (Dai et al. 2024): the faster the loss rises with the share that is masked,
the less redundant the experts are. The number of active experts stays fixed. A masked token does
what it would do if these experts were banned, so under a softmax over all experts the rest gets
their share; the paper does not say whether its gates did. Scores are those that select, before
groups are limited: logits (gpt-oss, Llama 4), probabilities, or these plus the balancing bias.

Axes: T tokens, E experts.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from deepseemoe.model.changes import refuse
from deepseemoe.model.hook_points import Decoder

WHAT = "masks"


def n_masked_of(decoder: Decoder, shares: Mapping[int, float]) -> dict[int, int]:
    """Return how many experts a share of each layer's is, rounded to the nearest number.

    Raises one ValueError for layers without experts, shares outside [0, 1), and shares above 0
    that round to no expert.
    """
    refuse(WHAT, _problems(decoder, shares))
    return {layer: _rounded(decoder, layer, share) for layer, share in shares.items()}


def with_best_closed(scores_TE: Tensor, n_masked: int, is_banned_E: Tensor | None) -> Tensor:
    """Return which experts are closed to each token, (T, E): the banned and its best others."""
    best = scores_TE.topk(n_masked, -1).indices
    is_closed_TE = torch.zeros_like(scores_TE, dtype=torch.bool).scatter_(-1, best, True)
    return is_closed_TE if is_banned_E is None else is_closed_TE | is_banned_E


def _problems(decoder: Decoder, shares: Mapping[int, float]) -> Iterator[tuple[int, str]]:
    for layer, share in shares.items():
        if problem := decoder.layer_problem(layer):
            yield layer, problem
        elif not 0 <= share < 1:
            yield layer, f"share {share:g} of the experts is not from 0 to less than 1"
        elif share > 0 and _rounded(decoder, layer, share) == 0:
            n_experts = len(decoder.router(layer).weight)
            yield (
                layer,
                f"share {share:g} of {n_experts} experts is none; one is {1 / n_experts:.4g}",
            )


def _rounded(decoder: Decoder, layer: int, share: float) -> int:
    return round(share * len(decoder.router(layer).weight))
