"""Logistic probes of whether each expert of a router is chosen, yes or no.

    logit(p_e) = a_e offset_e + b_e + sum over inputs f of w_{f,e} x_f
    minimised: sum over tokens and experts of the log loss + penalty / 2 * (|w|² + |a - 1|²)

so a penalty is the precision of a normal prior on weights, whatever the number of tokens. All
experts are fitted at once by L-BFGS on columns that are scaled to about equal curvature. Penalties
are tried from the strongest on, each from the last one's weights, until other documents are no
longer predicted better by more than a standard error over documents. No weights at all come first,
so that inputs which tell nothing change nothing.

Axes: T tokens, F inputs, E experts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from deepseemoe.prediction.designs import Design
from deepseemoe.prediction.lbfgs import minimise

NO_WEIGHTS = float("inf")
CURVATURE = 0.15
"""p (1 - p) of a decision, about; only the speed of fitting depends on it."""
MAX_STEPS = 30
TRIAL_STEPS = 8
"""A penalty that predicts other documents worse after so many steps is not followed further."""
TOLERANCE = 3e-5
"""Change of the loss, in nats a token, at which a fit ends."""


class Examples(NamedTuple):
    """Inputs, what was chosen (0 and 1), log odds that are known before, and documents."""

    design: Design
    chosen_TE: Tensor
    offset_TE: Tensor
    documents_T: np.ndarray


class Probe(NamedTuple):
    """Weights of a fitted probe and the penalty that was chosen for it."""

    weights_FE: Tensor
    bias_E: Tensor
    slope_E: Tensor
    penalty: float

    def logits(self, design: Design, offset_TE: Tensor) -> Tensor:
        """Return the log odds of each expert, (T, E)."""
        return self.slope_E * offset_TE + design.times(self.weights_FE) + self.bias_E


def fit_best(fit: Examples, choose: Examples, *, penalties: Sequence[float]) -> Probe:
    """Return the probe that predicts `choose` best, as far as that is sure; `penalties` fall."""
    best = start = _blank(fit)
    loss_D = _losses(best, choose)
    for penalty in penalties:
        start = fit_probe(fit, penalty, start, max_steps=TRIAL_STEPS)
        if _losses(start, choose).sum() < loss_D.sum():
            start = fit_probe(fit, penalty, start)
        elif best.penalty != NO_WEIGHTS:
            break
        saved_D = loss_D - _losses(start, choose)
        if saved_D.sum() > saved_D.std(ddof=1) * saved_D.size**0.5:
            best, loss_D = start, loss_D - saved_D
    return best


@torch.no_grad()
def fit_probe(
    fit: Examples, penalty: float, start: Probe | None = None, *, max_steps: int = MAX_STEPS
) -> Probe:
    """Return the probe of one penalty, fitted from the weights of `start` on."""
    n_tokens, scale_P1 = len(fit.chosen_TE), _scales(fit, penalty)
    begin_PE = torch.cat([*map(torch.atleast_2d, (start or _blank(fit))[:3])])

    def probe(scaled_PE: Tensor) -> Probe:
        parts_PE = scaled_PE / scale_P1
        return Probe(parts_PE[:-2], parts_PE[-2], parts_PE[-1], penalty)

    def loss(scaled_PE: Tensor) -> tuple[Tensor, Tensor]:
        now = probe(scaled_PE)
        logits_TE = now.logits(fit.design, fit.offset_TE)
        residual_TE = (logits_TE.sigmoid() - fit.chosen_TE) / n_tokens
        ridge = penalty / n_tokens
        of_weights_FE = fit.design.adjoint(residual_TE) + ridge * now.weights_FE
        of_slope_E = (residual_TE * fit.offset_TE).sum(0) + ridge * (now.slope_E - 1)
        gradient_PE = torch.cat([of_weights_FE, residual_TE.sum(0)[None], of_slope_E[None]])
        size_E = now.weights_FE.square().sum(0) + (now.slope_E - 1).square()
        value_E = (_totals(logits_TE, fit.chosen_TE) + penalty / 2 * size_E) / n_tokens
        return value_E, gradient_PE / scale_P1

    found_PE = minimise(loss, begin_PE * scale_P1, max_steps=max_steps, tolerance=TOLERANCE)
    return probe(found_PE)


def _scales(fit: Examples, penalty: float) -> Tensor:
    """Return the root of the curvature along each weight, bias and slope, about (P, 1)."""
    mean_square_F = fit.design.mean_square_F
    known = mean_square_F.new_tensor([1.0, float(fit.offset_TE.square().mean())])
    ridge_P = torch.full_like(torch.cat([mean_square_F, known]), penalty / len(fit.chosen_TE))
    ridge_P[-2] = 0
    return (CURVATURE * torch.cat([mean_square_F, known]) + ridge_P).sqrt()[:, None]


def _blank(fit: Examples) -> Probe:
    n_experts = fit.chosen_TE.shape[1]
    zeros, ones = fit.chosen_TE.new_zeros, fit.chosen_TE.new_ones(n_experts)
    return Probe(zeros(fit.design.n_inputs, n_experts), zeros(n_experts), ones, NO_WEIGHTS)


def _losses(probe: Probe, examples: Examples) -> np.ndarray:
    """Return the log loss of each document's decisions together, in nats (D,)."""
    logits_TE = probe.logits(examples.design, examples.offset_TE)
    loss_T = (softplus(logits_TE) - examples.chosen_TE * logits_TE).sum(1)
    _, place_T = np.unique(examples.documents_T, return_inverse=True)
    return np.bincount(place_T, loss_T.cpu().numpy())


def _totals(logits_TE: Tensor, chosen_TE: Tensor) -> Tensor:
    """Return the log loss of each expert's decisions together, in nats, float64 (E,)."""
    return (softplus(logits_TE) - chosen_TE * logits_TE).sum(0, dtype=torch.float64)


def as_tensor(values: np.ndarray, device: str) -> Tensor:
    """Return an array as a float32 tensor on `device`."""
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(device)
