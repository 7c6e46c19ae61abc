"""L-BFGS on many convex problems at once, one a column (Nocedal and Wright 2006, Algorithm 7.4).

The experts of a router share their inputs, so one product serves all of them, but each has its own
curvature and its own step. torch's L-BFGS sees one problem only, and imports a compiler (2 s).

Axes: P parameters, E problems.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

HISTORY = 10
MAX_HALVINGS = 12
SUFFICIENT = 1e-4
"""Share of the fall that the gradient promises which a step must bring (Armijo)."""


class Point(NamedTuple):
    """Parameters (P, E), each problem's value there (E,) in float64, and its gradient (P, E)."""

    at_PE: Tensor
    value_E: Tensor
    gradient_PE: Tensor


Function = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Parameters to values and gradients."""


def minimise(function: Function, start_PE: Tensor, *, max_steps: int, tolerance: float) -> Tensor:
    """Return parameters of about least value; stop where a step lowers all together by less.

    The function should have a curvature of about 1: the first step is its gradient's length.
    """
    point, memory = Point(start_PE, *function(start_PE)), []
    for _ in range(max_steps):
        direction_PE = -_inverse_curvature(point.gradient_PE, memory)
        found = _search(function, point, direction_PE)
        fall = float((point.value_E - found.value_E).sum())
        step_PE, change_PE = found.at_PE - point.at_PE, found.gradient_PE - point.gradient_PE
        memory = [*memory, _Pair.of(step_PE, change_PE)][-HISTORY:]
        point = found
        if fall < tolerance:
            break
    return point.at_PE


class _Pair(NamedTuple):
    """A step, the change of gradient along it, and 1 over their product; 0 where it is not used."""

    step_PE: Tensor
    change_PE: Tensor
    rho_E: Tensor
    scale_E: Tensor

    @classmethod
    def of(cls, step_PE: Tensor, change_PE: Tensor) -> "_Pair":
        product_E, square_E = _dot(step_PE, change_PE), _dot(change_PE, change_PE)
        is_used, ones_E = (product_E > 0) & (square_E > 0), torch.ones_like(product_E)
        rho_E = torch.where(is_used, 1 / torch.where(is_used, product_E, ones_E), 0)
        scale_E = torch.where(is_used, product_E / torch.where(is_used, square_E, ones_E), ones_E)
        return cls(step_PE, change_PE, rho_E, scale_E)


def _inverse_curvature(gradient_PE: Tensor, memory: list[_Pair]) -> Tensor:
    """Return the inverse Hessian, as far as steps have shown it, times the gradient."""
    result_PE, alphas = gradient_PE.clone(), []
    for pair in reversed(memory):
        alpha_E = pair.rho_E * _dot(pair.step_PE, result_PE)
        result_PE -= alpha_E * pair.change_PE
        alphas.append(alpha_E)
    if memory:
        result_PE *= memory[-1].scale_E
    for pair, alpha_E in zip(memory, reversed(alphas), strict=True):
        beta_E = pair.rho_E * _dot(pair.change_PE, result_PE)
        result_PE += (alpha_E - beta_E) * pair.step_PE
    return result_PE


def _search(function: Function, point: Point, direction_PE: Tensor) -> Point:
    """Return a point along the direction that is low enough in each problem, or has not moved."""
    slope_E = _dot(direction_PE, point.gradient_PE).double()
    length_E = torch.ones_like(slope_E)
    for _ in range(MAX_HALVINGS):
        at_PE = point.at_PE + length_E.to(direction_PE) * direction_PE
        found = Point(at_PE, *function(at_PE))
        is_high = ~(found.value_E <= point.value_E + SUFFICIENT * length_E * slope_E)
        if not is_high.any():
            return found
        excess_E = found.value_E - point.value_E - length_E * slope_E
        best_E = -slope_E * length_E / (2 * excess_E)  # least of the parabola, as a share
        length_E = torch.where(is_high, length_E * best_E.nan_to_num(0.1).clamp(0.1, 0.5), length_E)
    length_E = torch.where(is_high, 0, length_E)
    at_PE = point.at_PE + length_E.to(direction_PE) * direction_PE
    return Point(at_PE, *function(at_PE))


def _dot(left_PE: Tensor, right_PE: Tensor) -> Tensor:
    return (left_PE * right_PE).sum(0)
