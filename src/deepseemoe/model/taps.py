"""All that listens to a model's forward passes or changes them: recordings, edits, interventions.

All hooks of a model are installed from one list, in a fixed order, whenever any of these come or
go. So interventions come before edits and edits before recorders, whatever the order in which they
were asked for, and a recorder sees what the model goes on with. A hook that does not fire (fused
kernels bypass modules) would leave silence, so every one counts.
"""

from itertools import chain
from typing import NamedTuple

from torch import Tensor, nn

from deepseemoe.model.ban import ReroutedRouter
from deepseemoe.model.changes import Changes, Handle, Hooked, union
from deepseemoe.model.hook_points import Decoder
from deepseemoe.model.hooking import check, hooked_by
from deepseemoe.model.routers import OPEN, Routing
from deepseemoe.model.tap import Edit, Tap
from deepseemoe.model.without_shared import shared_edits
from deepseemoe.names import HOOK_POINTS, ROUTING_ARRAYS, Site

Edits = tuple[tuple[Site, Edit], ...]
"""What one `edit` asked for."""


class StopForward(Exception):  # noqa: N818 (it is no error, as StopIteration is none)
    """Ends a forward pass early; `hidden` is the residual stream (S, N, D) where it ended."""

    def __init__(self, hidden: Tensor):
        super().__init__("the forward pass ended early")
        self.hidden = hidden


class Recording(NamedTuple):
    """What one `record` asked for and got."""

    sites: tuple[Site, ...]
    values: dict[str, Tensor]
    stop: bool


class Taps:
    """All recordings, edits and interventions at a model, and the hooks that serve them."""

    def __init__(self, decoder: Decoder):
        self._decoder = decoder
        self._recordings: list[Recording] = []
        self._edits: list[Edits] = []
        self._changes: list[Changes] = []
        self._hooked: list[Hooked] = []
        self._taps: dict[Site, Tap] = {}
        self._handles: list[Handle] = []
        self._last_layer: int | None = None

    def add_recording(self, recording: Recording) -> None:
        """Start to record; the values of each forward pass replace those of the one before."""
        self._recordings.append(recording)
        self._install()

    def drop_recording(self, recording: Recording) -> None:
        """End a recording; its values stay."""
        self._recordings = _without(self._recordings, recording)
        self._install()

    def add_edits(self, edits: Edits) -> None:
        """Start to edit; an edit of a site that has one already sees its result."""
        self._edits.append(edits)
        self._install()

    def drop_edits(self, edits: Edits) -> None:
        """End these edits."""
        self._edits = _without(self._edits, edits)
        self._install()

    def add_changes(self, changes: Changes, *, what: str) -> None:
        """Start to intervene, besides what is on; raise ValueError where these cannot be together.

        `what` the error calls them.
        """
        check(self._decoder, union([*self._changes, changes]), what)
        self._changes.append(changes)
        self._install()

    def drop_changes(self, changes: Changes) -> None:
        """End these interventions."""
        self._changes = _without(self._changes, changes)
        self._install()

    def route(self, layer: int, x_TD: Tensor) -> Routing:
        """Return what a layer's router decides on inputs (T, D), as it now is."""
        for hooked in self._hooked:
            if isinstance(hooked, ReroutedRouter) and hooked.layer == layer:
                return hooked.route(x_TD)
        return self._decoder.spec.route(self._decoder.router(layer), x_TD, OPEN)

    @property
    def stops_early(self) -> bool:
        """Whether forward passes end at the last recorded layer."""
        return self._last_layer is not None

    def begin(self) -> None:
        """Forget the values and counts of the forward pass before."""
        for recording in self._recordings:
            recording.values.clear()
        for hooked in self._all():
            hooked.n_fired = 0

    def check(self) -> None:
        """Raise ValueError where a hook did not fire exactly once in the pass that ended."""
        last = self._last_layer if self.stops_early else len(self._decoder.layers)
        odd = [
            f"{hooked.name} fired {hooked.n_fired} times"
            for hooked in self._all()
            if hooked.n_fired != 1 and hooked.layer <= last
        ]
        if odd:
            raise ValueError(
                f"{'; '.join(odd)} in one forward pass, and each must fire once: the model's "
                "kernels bypass these modules, or call them more often"
            )

    def _all(self) -> list[Hooked]:
        """Return all that has a hook, in the order of layers and of the values inside a layer."""
        taps = [self._taps[site] for site in sorted(self._taps, key=_order)]
        return [*self._hooked, *taps]

    def _install(self) -> None:
        for handle in self._handles:
            handle.remove()
        changes = union(self._changes)
        self._taps = self._collect(changes)
        self._hooked = hooked_by(self._decoder, changes)
        self._handles = [hooked.install() for hooked in self._all()]
        self._last_layer = self._find_last_layer()
        if self._last_layer is not None:
            last = self._decoder.layers[self._last_layer]
            self._handles.append(last.register_forward_hook(_stop))

    def _collect(self, changes: Changes) -> dict[Site, Tap]:
        taps: dict[Site, Tap] = {}
        for site, edit in chain(shared_edits(changes), *self._edits):
            self._tap(taps, site).edits.append(edit)
        for recording in self._recordings:
            for site in recording.sites:
                self._tap(taps, site).recordings.append(recording.values)
        return taps

    def _tap(self, taps: dict[Site, Tap], site: Site) -> Tap:
        return taps.setdefault(site, Tap(site, self._decoder.place(site)))

    def _find_last_layer(self) -> int | None:
        if not self._recordings or not all(recording.stop for recording in self._recordings):
            return None
        layers = [site.layer for recording in self._recordings for site in recording.sites]
        return max(layers, default=None)


def _without(many: list, one: object) -> list:
    """Return all but the very object `one`; equal ones stay."""
    return [other for other in many if other is not one]


def _stop(module: nn.Module, args: tuple, output: Tensor) -> None:
    raise StopForward(output)


def _order(site: Site) -> tuple[int, int]:
    return site.layer, (HOOK_POINTS + ROUTING_ARRAYS).index(site.hook_point)
