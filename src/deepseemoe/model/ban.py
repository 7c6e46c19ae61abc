"""Bans: routers that must do without some experts decide again among the rest.

What follows is what a model does that never had these experts, up to rounding. Under group-limited
routing (DeepSeek-V2 and V3) groups keep their places and sizes on paper: a group is as good as the
experts that it has left, and one that has none left is never taken while another has some.

Axes: T tokens, D d_model, E experts, G groups of experts.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deepseemoe.model.hook_points import Decoder
from deepseemoe.model.routers import group_limit
from deepseemoe.names import layer_name

Bans = Mapping[int, frozenset[int]]
"""The banned experts of each layer."""


class BannedRouter:
    """A router that decides without its banned experts, by a hook that replaces its output."""

    def __init__(self, decoder: Decoder, layer: int, banned: Iterable[int]):
        self.name = f"the ban at {layer_name(layer)}"
        self.layer = layer
        self.n_fired = 0
        self._spec = decoder.spec
        self._router = decoder.router(layer)
        self.is_banned_E = _mask(self._router, banned)

    def install(self) -> RemovableHandle:
        """Return the handle of a new hook on the router."""
        return self._router.register_forward_hook(self._decide_again)

    def _decide_again(self, router: nn.Module, args: tuple, output: tuple) -> tuple:
        self.n_fired += 1
        x_TD = args[0].reshape(-1, args[0].shape[-1])
        return self._spec.router_form.write(self._spec.route(router, x_TD, self.is_banned_E))


def union(many: Iterable[Bans]) -> Bans:
    """Return the experts that any of the bans names; layers where none does are left out."""
    merged: dict[int, frozenset[int]] = {}
    for bans in many:
        for layer, experts in bans.items():
            merged[layer] = merged.get(layer, frozenset()) | experts
    return {layer: experts for layer, experts in merged.items() if experts}


def check_bans(decoder: Decoder, bans: Bans) -> None:
    """Raise one ValueError that names all layers and experts that cannot be banned."""
    problems = [
        f"{layer_name(layer)}: {problem}"
        for layer, experts in sorted(bans.items())
        for problem in _problems(decoder, layer, experts)
    ]
    if problems:
        raise ValueError(f"these bans are not possible: {'; '.join(problems)}")


def _problems(decoder: Decoder, layer: int, banned: frozenset[int]) -> Iterator[str]:
    if problem := decoder.layer_problem(layer):
        yield problem
        return
    router = decoder.router(layer)
    there = range(len(router.weight))
    if strange := sorted(banned.difference(there)):
        yield f"there is no expert {', '.join(map(str, strange))}, the last is {there[-1]}"
    n_left = _n_left(router, banned.intersection(there))
    if n_left < router.top_k:
        yield f"a token may have only {n_left} experts left, and each needs {router.top_k}"


def _n_left(router: nn.Module, banned: Iterable[int]) -> int:
    """Return from how many experts a token chooses at least, whichever groups are its best."""
    n_groups, n_kept = group_limit(router)
    left_G = (~_mask(router, banned)).unflatten(0, (n_groups, -1)).sum(-1)
    return int(left_G[left_G > 0].sort().values[:n_kept].sum())


def _mask(router: nn.Module, banned: Iterable[int]) -> Tensor:
    """Return which experts (E,) are banned, where the router computes."""
    weight_ED = router.weight
    is_banned_E = torch.zeros(len(weight_ED), dtype=torch.bool, device=weight_ED.device)
    is_banned_E[sorted(banned)] = True
    return is_banned_E
