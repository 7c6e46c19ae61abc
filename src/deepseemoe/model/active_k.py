"""Another number of routed experts a token: what the configuration's top-k would have made of it.

Routers of all families keep their top-k as a number of their own, which is set while this lasts. So
the model's own code does what it does with that number: weights sum to 1, or do not, as ever.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn
from torch.utils.hooks import RemovableHandle

from deepseemoe.model.hook_points import Decoder
from deepseemoe.names import layer_name


class RouterWithK:
    """A router whose top-k is another number, and a hook that counts that it was asked."""

    def __init__(self, decoder: Decoder, layer: int, top_k: int):
        self.name = f"the active k at {layer_name(layer)}"
        self.layer = layer
        self.n_fired = 0
        self._router = decoder.router(layer)
        self._top_k = int(top_k)

    def install(self) -> "_Lent":
        """Set the number; return what sets it back."""
        lent = _Lent(self._router, self._router.top_k, self._router.register_forward_hook(self._on))
        self._router.top_k = self._top_k
        return lent

    def _on(self, router: nn.Module, args: tuple, output: Any) -> None:
        self.n_fired += 1


class _Lent(NamedTuple):
    router: nn.Module
    own_top_k: int
    hook: RemovableHandle

    def remove(self) -> None:
        """Give the router its own number back."""
        self.hook.remove()
        self.router.top_k = self.own_top_k


def k_problems(decoder: Decoder, top_k: Mapping[int, int]) -> Iterator[tuple[int, str]]:
    """Yield the layers, and why, that cannot have their number of experts a token."""
    for layer, k in top_k.items():
        if problem := decoder.layer_problem(layer):
            yield layer, problem
        elif k not in range(1, (n_experts := len(decoder.router(layer).weight)) + 1):
            yield layer, f"k {k} experts a token is not from 1 to {n_experts}, all there are"
