"""What the modules of a layer return, and how to read and replace the value that is in it.

Nearly all return the value itself, or a tuple that begins with it. Llama 4 does not: its experts
return rows for every expert and token, its block adds the routed sum into the shared expert's
output in place, and its routers return scores for all experts.

Axes: T tokens, D d_model, E experts, K top_k.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deepseemoe.model.routers import Routing, by_weight


class Form(NamedTuple):
    """`read(module, output)` is the value; `write(new, module, output)` an output that holds it."""

    read: Callable[[nn.Module, Any], Tensor]
    write: Callable[[Tensor, nn.Module, Any], Any]


def _first(module: nn.Module, output: Tensor | tuple) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _with_first(new: Tensor, module: nn.Module, output: Tensor | tuple) -> Tensor | tuple:
    return (new, *output[1:]) if isinstance(output, tuple) else new


def _sum_over_experts(module: nn.Module, rows: Tensor) -> Tensor:
    return rows.unflatten(0, (module.num_experts, -1)).sum(
        0
    )  # (E * T, D), summed as the block does


def _as_first_expert(new_TD: Tensor, module: nn.Module, rows: Tensor) -> Tensor:
    """Return rows (E * T, D) whose sum over experts is exactly `new`."""
    return torch.cat([new_TD, rows.new_zeros(len(rows) - len(new_TD), new_TD.shape[-1])])


PLAIN = Form(_first, _with_first)
"""The value, or a tuple that begins with it."""
ROWS_FOR_ALL_EXPERTS = Form(_sum_over_experts, _as_first_expert)
"""Outputs (E * T, D) of all experts on all tokens, zeros where a token did not choose one."""
OVERWRITTEN = Form(lambda module, output: output.clone(), lambda new, module, output: new.clone())
"""The value, in memory that the block then adds other things to."""


class Decisions(NamedTuple):
    """What a router decided: `ids` and `weights` by falling weight."""

    router_logits: Tensor
    expert_ids: Tensor
    expert_weights: Tensor


class RouterForm(NamedTuple):
    """`read(router, output)` is what a router decided; `write(routing)` an output that says it."""

    read: Callable[[nn.Module, tuple], Decisions]
    write: Callable[[Routing], tuple]


def _read_chosen(router: nn.Module, output: tuple) -> Decisions:
    logits_TE, weights_TK, ids_TK = output
    return Decisions(logits_TE, *by_weight(ids_TK, weights_TK))


def _write_chosen(routing: Routing) -> tuple[Tensor, Tensor, Tensor]:
    return routing.logits_TE, routing.weights_TK, routing.ids_TK


def _read_scores(router: nn.Module, output: tuple) -> Decisions:
    """Take the experts with a score, by falling logit: rounded sigmoids tie where logits do not."""
    scores_TE, logits_TE = output
    order_TE = logits_TE.argsort(dim=-1, descending=True, stable=True)
    is_chosen_TE = scores_TE.gather(-1, order_TE) > 0
    first_TK = is_chosen_TE.byte().argsort(dim=-1, descending=True, stable=True)[:, : router.top_k]
    ids_TK = order_TE.gather(-1, first_TK)
    return Decisions(logits_TE, ids_TK, scores_TE.gather(-1, ids_TK))


def _write_scores(routing: Routing) -> tuple[Tensor, Tensor]:
    scores_TE = torch.zeros_like(routing.logits_TE)
    return scores_TE.scatter(-1, routing.ids_TK, routing.weights_TK), routing.logits_TE


CHOSEN = RouterForm(_read_chosen, _write_chosen)
"""(logits (T, E), weights (T, K), ids (T, K)), in any order of a token's experts."""
SCORES = RouterForm(_read_scores, _write_scores)
"""(scores (T, E), logits (T, E)), with a score of 0 for experts that were not chosen."""
