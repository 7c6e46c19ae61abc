"""Adam's step where a kernel sums gradients and takes it at once (`kernels.rows_adam`).

Encoders and decoders whose gradient is a sum over entries, with AuxK's rows or without, are whole
matrices in one launch. What else there is stays with `Gradient.blocks` and `Adam.update`: biases,
skips and thresholds, decoders of norm 1, and those that an L1 penalty pulls at.

Axes: T tokens, W columns of a part, A rows with a gradient of AuxK's.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from deepseemoe.dictionary.adam import BETAS, Adam
from deepseemoe.dictionary.gradients import Gradient
from deepseemoe.dictionary.kernels import Kernels
from deepseemoe.dictionary.recipe import Recipe


class Sums(NamedTuple):
    """What the gradient of one of `Weights.tensors()` is the sum of; see `kernels.rows_adam`."""

    tensor: int
    table_TW: Tensor
    offsets: Tensor
    values: Tensor
    extra_AW: Tensor | None
    extra_rows: Tensor | None


def descend(fast: Kernels, gradient: Gradient, adam: Adam, constants: Tensor) -> set[int]:
    """Take the step in all tensors that the kernel can do, and return which these were."""
    tensors, done = [*gradient.weights.tensors()], set()
    for sums in _sums(gradient):
        fast.rows_adam(
            tensors[sums.tensor],
            adam.first[sums.tensor],
            adam.second[sums.tensor],
            table_NW=sums.table_TW,
            tokens=gradient.tokens,
            offsets=sums.offsets,
            values=sums.values,
            constants=constants,
            extra_AW=sums.extra_AW,
            extra_rows=sums.extra_rows,
        )
        done.add(sums.tensor)
    return done


def constants(recipe: Recipe, step: int, divisor: float, *, like: Tensor) -> Tensor:
    """Return the numbers of step `step`, counted from 0, as `kernels.rows_adam` takes them."""
    n_steps, (b1, b2) = step + 1, BETAS
    step_size = recipe.learning_rate(step) / (1 - b1**n_steps)
    numbers = [divisor, b1, b2, recipe.adam_epsilon, step_size, (1 - b2**n_steps) ** 0.5]
    return torch.tensor(numbers, dtype=like.dtype).to(like.device, non_blocking=True)


def _sums(gradient: Gradient) -> Iterator[Sums]:
    """Yield those of encoders, and of decoders where nothing else is in their gradient."""
    n_parts = len(gradient.parts)
    for index, part in enumerate(gradient.parts):
        offsets = gradient.by_feature.starts[part.first : part.stop + 1]
        encoder = decoder = rows = None
        if gradient.extra:
            extra = gradient.extra[index]
            encoder, decoder, rows = extra.encoder, extra.decoder, extra.rows
        yield Sums(index, gradient.inputs[index], offsets, gradient.slope_z, encoder, rows)
        if gradient.slope_norm_F is None and not gradient.unit_decoder:
            place = n_parts + 1 + index
            yield Sums(place, gradient.slopes[index], offsets, gradient.z, decoder, rows)
