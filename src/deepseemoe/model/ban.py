"""Routers that must do without some experts decide again among the rest: bans and masks.

Under a ban follows what a model does that never had these experts, up to rounding; a mask takes
from each token's choice those that it likes best (`mask_top`). Under group-limited routing
(DeepSeek-V2 and V3) groups keep their places and sizes on paper: a group is as good as the experts
that it has left, and one that has none left is never taken while another has some.

Axes: T tokens, D d_model, E experts, G groups of experts.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deepseemoe.model.changes import Changes, expert_problems
from deepseemoe.model.hook_points import Decoder
from deepseemoe.model.routers import Closed, Routing, group_limit
from deepseemoe.names import layer_name


class ReroutedRouter:
    """A router that decides without some experts, by a hook that replaces its output."""

    def __init__(self, decoder: Decoder, layer: int, changes: Changes):
        banned = changes.bans.get(layer, frozenset())
        self.name = f"the {'ban' if banned else 'mask'} at {layer_name(layer)}"
        self.layer = layer
        self.n_fired = 0
        self._spec = decoder.spec
        self._router = decoder.router(layer)
        is_banned_E = _mask(self._router, banned) if banned else None
        self._closed = Closed(is_banned_E, changes.n_masked.get(layer, 0))

    def install(self) -> RemovableHandle:
        """Return the handle of a new hook on the router."""
        return self._router.register_forward_hook(self._decide_again)

    def route(self, x_TD: Tensor) -> Routing:
        """Return what the router decides on inputs (T, D)."""
        return self._spec.route(self._router, x_TD, self._closed)

    def _decide_again(self, router: nn.Module, args: tuple, output: tuple) -> tuple:
        self.n_fired += 1
        x_TD = args[0].reshape(-1, args[0].shape[-1])
        return self._spec.router_form.write(self.route(x_TD))


def rerouted(decoder: Decoder, changes: Changes) -> list[ReroutedRouter]:
    """Return the routers that bans and masks concern."""
    layers = sorted({*changes.bans, *changes.n_masked})
    return [ReroutedRouter(decoder, layer, changes) for layer in layers]


def routing_problems(decoder: Decoder, changes: Changes) -> Iterator[tuple[int, str]]:
    """Yield the layers, and why, whose experts or tokens bans, masks and active k do not suit."""
    for layer in {*changes.bans, *changes.n_masked, *changes.top_k}:
        banned = changes.bans.get(layer, frozenset())
        problems = expert_problems(decoder, layer, banned)
        yield from ((layer, problem) for problem in problems)
        if not decoder.layer_problem(layer):
            yield from _too_few(decoder.router(layer), layer, banned, changes)


def _too_few(
    router: nn.Module, layer: int, banned: frozenset[int], changes: Changes
) -> Iterator[tuple[int, str]]:
    n_needed = changes.top_k.get(layer, router.top_k)
    there = banned.intersection(range(len(router.weight)))
    n_left = _n_left(router, there, changes.n_masked.get(layer, 0))
    if n_left < n_needed:
        yield layer, f"a token may have only {n_left} experts left, and each needs {n_needed}"


def _n_left(router: nn.Module, banned: Iterable[int], n_masked: int) -> int:
    """Return from how many experts a token chooses at least, whichever groups are its best.

    At worst all that is masked lies in its groups, each of which keeps one.
    """
    n_groups, n_kept = group_limit(router)
    left_G = (~_mask(router, banned)).unflatten(0, (n_groups, -1)).sum(-1)
    in_groups = left_G[left_G > 0].sort().values[:n_kept]
    n_all = int(left_G.sum()) - n_masked
    return max(min(n_all, len(in_groups)), int(in_groups.sum()) - n_masked)


def _mask(router: nn.Module, banned: Iterable[int]) -> Tensor:
    """Return which experts (E,) are banned, where the router computes."""
    weight_ED = router.weight
    is_banned_E = torch.zeros(len(weight_ED), dtype=torch.bool, device=weight_ED.device)
    is_banned_E[sorted(banned)] = True
    return is_banned_E
