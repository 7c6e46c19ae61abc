"""Taps: values of a forward pass are seen and replaced by forward hooks on a model's modules.

All hooks of a model are installed from one list, in a fixed order, whenever recordings or edits
come or go. So edits come before recorders at every site, whatever the order in which they were
asked for, and a recorder sees what the model goes on with. A hook that does not fire (fused kernels
bypass modules) would leave silence, so every tap counts.

Axes: S sequences, N sequence length, T = S * N tokens, D d_model, E experts, K top_k.
"""

from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deepseemoe.model.hook_points import Place
from deepseemoe.model.routers import by_weight
from deepseemoe.names import HOOK_POINTS, ROUTING_ARRAYS, Site

Edit = Callable[[Tensor], Tensor]
"""Takes a value (T, D) and returns its replacement, as a new tensor of the same shape."""


class StopForward(Exception):  # noqa: N818 (it is no error, as StopIteration is none)
    """Ends a forward pass early; `hidden` is the residual stream (S, N, D) where it ended."""

    def __init__(self, hidden: Tensor):
        super().__init__("the forward pass ended early")
        self.hidden = hidden


class Tap:
    """One site: the edits of its value, in the order they were asked for, and who records it."""

    def __init__(self, site: Site, place: Place):
        self.site = site
        self.place = place
        self.edits: list[Edit] = []
        self.recordings: list[dict[str, Tensor]] = []
        self.n_fired = 0

    def visit(self, value: Tensor) -> Tensor:
        """Return `value`, of any shape (..., D), after all edits, and hand it to the recordings."""
        self.n_fired += 1
        for edit in self.edits:
            value = self._edited(edit, value)
        for recording in self.recordings:
            recording[str(self.site)] = value.detach().reshape(-1, value.shape[-1])
        return value

    def _edited(self, edit: Edit, value: Tensor) -> Tensor:
        rows_TD = value.reshape(-1, value.shape[-1])
        new_TD = edit(rows_TD)
        if new_TD.shape != rows_TD.shape:
            raise ValueError(
                f"the edit of {self.site} returned shape {tuple(new_TD.shape)}; "
                f"it must return {tuple(rows_TD.shape)}, the shape it was given"
            )
        return new_TD.to(value.dtype).view(value.shape)

    def install(self) -> RemovableHandle:
        """Return the handle of a new hook on the module."""
        if self.place.side in ("input", "residual"):
            hook = self._before if self.place.side == "input" else self._before_in_place
            return self.place.module.register_forward_pre_hook(hook)
        hook = self._after if self.place.side == "output" else self._after_router
        return self.place.module.register_forward_hook(hook)

    def _before(self, module: nn.Module, args: tuple) -> tuple:
        return (self.visit(args[0]), *args[1:])

    def _before_in_place(self, module: nn.Module, args: tuple) -> None:
        if self.edits:
            args[0].copy_(self.visit(args[0].clone()))
        else:
            self.visit(args[0])

    def _after(self, module: nn.Module, args: tuple, output: Tensor | tuple) -> Tensor | tuple:
        if isinstance(output, tuple):
            return (self.visit(output[0]), *output[1:])
        return self.visit(output)

    def _after_router(self, module: nn.Module, args: tuple, output: tuple) -> None:
        logits_TE, weights_TK, ids_TK = output
        if self.site.hook_point == "router_logits":
            self.visit(logits_TE)
        else:
            sorted_ids_TK, sorted_weights_TK = by_weight(ids_TK, weights_TK)
            is_ids = self.site.hook_point == "expert_ids"
            self.visit(sorted_ids_TK if is_ids else sorted_weights_TK)


Edits = list[tuple[Site, Place, Edit]]
"""What one `edit` asked for."""


class Recording(NamedTuple):
    """What one `record` asked for and got."""

    taps: tuple[tuple[Site, Place], ...]
    values: dict[str, Tensor]
    stop: bool


class Taps:
    """All recordings and edits that are on at a model, and the hooks that serve them."""

    def __init__(self, layers: nn.ModuleList):
        self._layers = layers
        self._recordings: list[Recording] = []
        self._edits: list[Edits] = []
        self._taps: dict[Site, Tap] = {}
        self._handles: list[RemovableHandle] = []
        self._last_layer: int | None = None

    def add_recording(self, recording: Recording) -> None:
        """Start to record; the values of each forward pass replace those of the one before."""
        self._recordings.append(recording)
        self._install()

    def drop_recording(self, recording: Recording) -> None:
        """End a recording; its values stay."""
        self._recordings = [other for other in self._recordings if other is not recording]
        self._install()

    def add_edits(self, edits: Edits) -> None:
        """Start to edit; an edit of a site that has one already sees its result."""
        self._edits.append(edits)
        self._install()

    def drop_edits(self, edits: Edits) -> None:
        """End these edits."""
        self._edits = [others for others in self._edits if others is not edits]
        self._install()

    @property
    def stops_early(self) -> bool:
        """Whether forward passes end at the last recorded layer."""
        return self._last_layer is not None

    def begin(self) -> None:
        """Forget the values and counts of the forward pass before."""
        for recording in self._recordings:
            recording.values.clear()
        for tap in self._taps.values():
            tap.n_fired = 0

    def check(self) -> None:
        """Raise ValueError where a tap did not fire exactly once in the forward pass that ended."""
        last = self._last_layer if self.stops_early else len(self._layers)
        odd = [
            f"{tap.site} fired {tap.n_fired} times"
            for tap in self._taps.values()
            if tap.n_fired != 1 and tap.site.layer <= last
        ]
        if odd:
            raise ValueError(
                f"{'; '.join(odd)} in one forward pass, and each must fire once: the model's "
                "kernels bypass these modules, or call them more often"
            )

    def _install(self) -> None:
        """Replace all hooks, in the order of the layers and of the values inside a layer."""
        for handle in self._handles:
            handle.remove()
        self._taps = self._collect()
        self._handles = [self._taps[site].install() for site in sorted(self._taps, key=_order)]
        self._last_layer = self._find_last_layer()
        if self._last_layer is not None:
            last = self._layers[self._last_layer]
            self._handles.append(last.register_forward_hook(_stop))

    def _collect(self) -> dict[Site, Tap]:
        taps: dict[Site, Tap] = {}
        for site, place, edit in chain.from_iterable(self._edits):
            taps.setdefault(site, Tap(site, place)).edits.append(edit)
        for recording in self._recordings:
            for site, place in recording.taps:
                taps.setdefault(site, Tap(site, place)).recordings.append(recording.values)
        return taps

    def _find_last_layer(self) -> int | None:
        if not self._recordings or not all(recording.stop for recording in self._recordings):
            return None
        layers = [site.layer for recording in self._recordings for site, _ in recording.taps]
        return max(layers, default=None)


def _stop(module: nn.Module, args: tuple, output: Tensor) -> None:
    raise StopForward(output)


def _order(site: Site) -> tuple[int, int]:
    return site.layer, (HOOK_POINTS + ROUTING_ARRAYS).index(site.hook_point)
