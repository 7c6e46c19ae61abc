"""Masks: each token does without the experts that its router likes best, and takes the next ones.

Figure 4 of DeepSeekMoE (Dai et al. 2024): the faster the loss rises with the share that is masked,
the less redundant the experts are. The number of active experts stays fixed. Unlike a ban, a mask
leaves all scores as they are: it only takes from the choice, as the paper's text does, so that the
next experts are chosen whatever the family, with weights that only sum to 1 where they always do.
"""

from collections.abc import Iterator, Mapping

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
