"""The state of a training run, and one step of it.

Axes: T tokens, F features, C columns of the window.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deepseemoe.dictionary.auxk import AuxK
from deepseemoe.dictionary.batches import Batch
from deepseemoe.dictionary.gradients import gradients
from deepseemoe.dictionary.layout import Part
from deepseemoe.dictionary.recipe import Recipe
from deepseemoe.dictionary.selection import BatchTopK, jobs_of
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
    """Weights, optimizer moments and silent-token counts; `step` is how many batches they saw."""

    def __init__(
        self, recipe: Recipe, parts: Sequence[Part], weights: Weights, *, d_model: int
    ) -> None:
        self.recipe, self.parts, self.weights, self.d_model = recipe, parts, weights, d_model
        self.step = 0
        self.silent_F = torch.zeros_like(weights.encoder_bias, dtype=torch.int64)
        self._select = BatchTopK(recipe.k)
        self._adam = torch.optim.Adam(list(weights.tensors()), betas=(0.9, 0.999), fused=True)

    @property
    def is_dead_F(self) -> Tensor:
        """Which features were silent for `dead_tokens` or more."""
        return self.silent_F >= self.recipe.dead_tokens

    @torch.no_grad()
    def advance(self, batch: Batch) -> StepReport:
        """Train on one batch; raise ValueError where the gradient is not finite."""
        jobs = jobs_of(self.parts, batch.inputs_TC, self.d_model)
        selection = self._select(self.weights, jobs, self.weights.norm_F(self.d_model))
        auxk = AuxK(self.is_dead_F, self.recipe.k_aux, self.recipe.auxk_weight)
        losses, grads = gradients(
            self.weights,
            jobs,
            batch.targets_TC,
            selection.entries,
            d_model=self.d_model,
            auxk=auxk if auxk.weight else None,
        )
        self._descend(grads)
        self.silent_F += len(batch.inputs_TC)
        self.silent_F[selection.entries.features] = 0
        self.step += 1
        targets = batch.targets_TC.view(-1)
        return StepReport(
            loss=losses.total,
            auxk_loss=losses.auxk,
            squared_error=losses.squared_error,
            squared_target=float(torch.dot(targets, targets)),
            n_active=len(selection.entries.values),
            n_tokens=len(batch.inputs_TC),
            threshold=selection.threshold,
        )

    def _descend(self, grads: Weights) -> None:
        """Clip the gradient to its largest norm, and let Adam step."""
        tensors = list(grads.tensors())
        norm = float(torch.nn.utils.get_total_norm(tensors))
        if not math.isfinite(norm):
            raise ValueError(
                f"step {self.step}: the gradient is not finite ({norm}); lower learning_rate, or "
                "look for activations that are not finite or huge in the stores"
            )
        if norm > self.recipe.max_grad_norm:
            torch._foreach_mul_(tensors, self.recipe.max_grad_norm / norm)
        for weight, grad in zip(self.weights.tensors(), tensors, strict=True):
            weight.grad = grad
        for group in self._adam.param_groups:
            group["lr"] = self.recipe.learning_rate(self.step)
        self._adam.step()

    def state(self) -> dict[str, Tensor]:
        """Return all that a later `load_state` needs to go on to the same bytes."""
        tensors = {"silent": self.silent_F}
        for index, weight in enumerate(self.weights.tensors()):
            moments = self._adam.state[weight]
            tensors |= {
                f"weight.{index}": weight,
                f"first.{index}": moments["exp_avg"],
                f"second.{index}": moments["exp_avg_sq"],
            }
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Continue after `step` batches from what `state` returned."""
        self.step = step
        self.silent_F.copy_(tensors["silent"])
        for index, weight in enumerate(self.weights.tensors()):
            weight.copy_(tensors[f"weight.{index}"])
            self._adam.state[weight] = {
                "step": torch.tensor(float(step), device=weight.device),
                "exp_avg": tensors[f"first.{index}"].to(weight.device),
                "exp_avg_sq": tensors[f"second.{index}"].to(weight.device),
            }
