"""The state of a training run, and one step of it.

Axes: T tokens, F features, C columns of the window.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deepseemoe.dictionary import kernels
from deepseemoe.dictionary.adam import Adam
from deepseemoe.dictionary.auxk import AuxK
from deepseemoe.dictionary.batch_topk import BatchTopK
from deepseemoe.dictionary.batches import Batch
from deepseemoe.dictionary.descent import constants, descend
from deepseemoe.dictionary.gradients import Gradient, gradient_of
from deepseemoe.dictionary.jumprelu import JumpReLU
from deepseemoe.dictionary.layout import Part
from deepseemoe.dictionary.ranks import ALONE, Ranks
from deepseemoe.dictionary.recipe import Recipe
from deepseemoe.dictionary.relu import ReLU
from deepseemoe.dictionary.scan import Scanner, jobs_of
from deepseemoe.dictionary.selection import Activation
from deepseemoe.dictionary.shards import Shard
from deepseemoe.dictionary.topk import TopK, shares_of
from deepseemoe.dictionary.weights import Weights


class StepReport(NamedTuple):
    """What one step did; sums over the batch, so that several steps add up."""

    loss: float
    auxk_loss: float
    squared_error: float
    squared_target: float
    n_active: int
    n_tokens: int
    threshold: float


class Trainer:
    """Weights, optimizer moments and silent-token counts; `step` is how many batches they saw.

    Parts and weights are all of a dictionary, or those of one of several `ranks`.
    """

    def __init__(
        self,
        recipe: Recipe,
        parts: Sequence[Part],
        weights: Weights,
        *,
        d_model: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.recipe, self.parts, self.weights, self.d_model = recipe, parts, weights, d_model
        self.ranks = ranks
        self.step = 0
        self.silent_F = torch.zeros_like(weights.encoder_bias, dtype=torch.int64)
        self._activation = activation_of(recipe, parts, ranks)
        self._adam = Adam([*weights.tensors()], epsilon=recipe.adam_epsilon)

    @property
    def is_dead_F(self) -> Tensor:
        """Which features were silent for `dead_tokens` or more."""
        return self.silent_F >= self.recipe.dead_tokens

    def dead_fraction(self) -> float:
        """Return the share of all features that are dead; all ranks ask for it, or none."""
        if self.ranks.n_ranks == 1:
            return self.own_dead_fraction()
        n_dead = self.ranks.total(int(self.is_dead_F.sum()))
        return n_dead / self.ranks.total(len(self.silent_F))

    def own_dead_fraction(self) -> float:
        """Return the share of this rank's features that are dead."""
        return float(self.is_dead_F.float().mean())

    @torch.no_grad()
    def advance(self, batch: Batch) -> StepReport:
        """Train on one batch; raise ValueError where the gradient is not finite."""
        recipe, weights = self.recipe, self.weights
        inputs_TC = batch.inputs_TC
        read_TC = inputs_TC - weights.decoder_bias if recipe.pre_bias else inputs_TC
        jobs = jobs_of(self.parts, read_TC, self.d_model)
        norm_F = weights.norm_F(self.d_model)
        selection = self._activation.select(weights, jobs, norm_F)
        dead = AuxK(self.is_dead_F, recipe.k_aux, recipe.auxk_weight, self.step)
        losses, gradient = gradient_of(
            weights,
            jobs,
            batch.targets_TC,
            selection,
            self._activation,
            inputs_TC=inputs_TC,
            d_model=self.d_model,
            norm_F=norm_F,
            strength=recipe.penalty(self.step),
            dead=dead if dead.weight else None,
            pre_bias=recipe.pre_bias,
            ranks=self.ranks,
            unit_decoder=recipe.unit_decoder,
        )
        self._descend(gradient)
        self.silent_F += len(inputs_TC)
        self.silent_F[selection.active_features] = 0
        self.step += 1
        targets = batch.targets_TC.view(-1)
        return StepReport(
            loss=losses.total,
            auxk_loss=losses.auxk,
            squared_error=losses.squared_error,
            squared_target=float(torch.dot(targets, targets)),
            n_active=selection.n_active,
            n_tokens=len(inputs_TC),
            threshold=selection.threshold,
        )

    def _descend(self, gradient: Gradient) -> None:
        """Clip the gradient to its largest norm, and let Adam step."""
        most = self.recipe.max_grad_norm
        norm = gradient.norm(enough=most)
        if not math.isfinite(norm):
            raise ValueError(
                f"step {self.step}: the gradient is not finite ({norm}); lower learning_rate, or "
                "look for activations that are not finite or huge in the stores"
            )
        rate, n_parts = self.recipe.learning_rate(self.step), len(self.parts)
        decoders = range(n_parts + 1, 2 * n_parts + 1) if self.recipe.unit_decoder else ()
        divisor, done = max(1.0, norm / most), set[int]()
        self._adam.begin(self.step, divisor=divisor)
        if fast := kernels.for_device(self.silent_F.device):
            numbers = constants(self.recipe, self.step, divisor, like=self.weights.encoder_bias)
            done = descend(fast, gradient, self._adam, numbers)
        for block in gradient.blocks(without=done):
            updated = self._adam.update(block, rate=rate)
            for weight in (
                w for w, rows in zip(updated, block, strict=True) if rows.tensor in decoders
            ):
                weight /= torch.linalg.vector_norm(weight, dim=1, keepdim=True)

    def state(self) -> dict[str, Tensor]:
        """Return all that a later `load_state` needs to go on to the same bytes."""
        tensors = {"silent": self.silent_F}
        for index, weight in enumerate(self.weights.tensors()):
            tensors |= {
                f"weight.{index}": weight,
                f"first.{index}": self._adam.first[index],
                f"second.{index}": self._adam.second[index],
            }
        return tensors

    def sizes(self, shard: Shard) -> dict[str, tuple[int, ...] | None]:
        """Return, for each tensor of `state`, the sizes of the parts whose rows it stacks.

        None for what every rank has whole.
        """
        found = {"silent": tuple(part.n_features for part in shard.whole)}
        for index, sizes in enumerate(shard.segments(self.weights)):
            found |= {f"{name}.{index}": sizes for name in ("weight", "first", "second")}
        return found

    def load_state(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Continue after `step` batches from what `state` returned."""
        self.step = step
        self.silent_F.copy_(tensors["silent"])
        for index, weight in enumerate(self.weights.tensors()):
            weight.copy_(tensors[f"weight.{index}"])
            self._adam.first[index].copy_(tensors[f"first.{index}"])
            self._adam.second[index].copy_(tensors[f"second.{index}"])


def activation_of(recipe: Recipe, parts: Sequence[Part], ranks: Ranks = ALONE) -> Activation:
    """Return the activation function of a recipe."""
    scanner = Scanner()
    match recipe.activation:
        case "batch_topk":
            return BatchTopK(recipe.k, scanner, ranks)
        case "topk":
            return TopK(shares_of(recipe.k, parts), scanner, ranks)
        case "jumprelu":
            return JumpReLU(recipe.k, scanner, ranks)
        case "relu":
            return ReLU(scanner, ranks)
    raise ValueError(f"activation {recipe.activation!r}: not one that a dictionary has")
