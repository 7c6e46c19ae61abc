"""Drops: routing stays, and what some experts would add to the block's output leaves it.

The experts module is called with weights of 0 for them, so the rest comes out to the bit as it does
from a model whose down projections (and biases) of these experts are 0. The router's output, which
is what `record` reads, keeps its weights; other experts do not get their share.

Axes: T tokens, D d_model, E experts, K experts of a token.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deepseemoe.model.changes import Changes, expert_problems
from deepseemoe.model.contributions import weigh_inputs
from deepseemoe.model.hook_points import Decoder
from deepseemoe.names import layer_name

Call = tuple[Tensor, ...]
"""What an experts module is called with."""


class DroppedExperts:
    """The experts of a layer, of which some add nothing, by a hook that changes their call."""

    def __init__(self, decoder: Decoder, layer: int, dropped: frozenset[int]):
        self.name = f"the drop at {layer_name(layer)}"
        self.layer = layer
        self.n_fired = 0
        self._experts = decoder.experts(layer)
        router_weight = decoder.router(layer).weight
        self._is_dropped_E = torch.zeros(
            len(router_weight), dtype=torch.bool, device=router_weight.device
        )
        self._is_dropped_E[sorted(dropped)] = True
        scales_inputs = decoder.spec.contributions is weigh_inputs
        self._without: Callable[[Call, Tensor], Call] = (
            _without_inputs if scales_inputs else _without_weights
        )

    def install(self) -> RemovableHandle:
        """Return the handle of a new hook on the experts."""
        return self._experts.register_forward_pre_hook(self._before)

    def _before(self, experts: nn.Module, args: Call) -> Call:
        self.n_fired += 1
        return self._without(args, self._is_dropped_E)


def _without_weights(args: Call, is_dropped_E: Tensor) -> Call:
    x_TD, ids_TK, weights_TK, *others = args
    return x_TD, ids_TK, weights_TK.masked_fill(is_dropped_E[ids_TK], 0.0), *others


def _without_inputs(args: Call, is_dropped_E: Tensor) -> Call:
    """Take their weighted inputs from rows (E * T, D), one run of T an expert (Llama 4)."""
    rows, *others = args
    rows_ETD = rows.unflatten(0, (len(is_dropped_E), -1))
    return rows_ETD.masked_fill(is_dropped_E[:, None, None], 0.0).flatten(0, 1), *others


def drop_problems(decoder: Decoder, changes: Changes) -> Iterator[tuple[int, str]]:
    """Yield the layers, and why, whose drops are not possible."""
    for layer, experts in changes.drops.items():
        yield from ((layer, problem) for problem in expert_problems(decoder, layer, experts))
