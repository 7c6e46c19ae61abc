"""A tap: the value at one site is seen and replaced by a forward hook on a module.

Axes: T tokens, D d_model; a value may come in any shape (..., D).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deepseemoe.model.hook_points import Place
from deepseemoe.names import Site

Edit = Callable[[Tensor], Tensor]
"""Takes a value (T, D) and returns its replacement, as a new tensor of the same shape."""


class Tap:
    """One site: the edits of its value, in the order they were asked for, and who records it."""

    def __init__(self, site: Site, place: Place):
        self.site = site
        self.place = place
        self.edits: list[Edit] = []
        self.recordings: list[dict[str, Tensor]] = []
        self.n_fired = 0

    @property
    def name(self) -> str:
        """What errors call it."""
        return str(self.site)

    @property
    def layer(self) -> int:
        """The layer that it is in."""
        return self.site.layer

    def install(self) -> RemovableHandle:
        """Return the handle of a new hook on the module."""
        if self.place.side == "output":
            return self.place.module.register_forward_hook(self._after)
        hook = self._before if self.place.side == "input" else self._before_in_place
        return self.place.module.register_forward_pre_hook(hook)

    def _before(self, module: nn.Module, args: tuple) -> tuple:
        return (self._visit(args[0]), *args[1:])

    def _before_in_place(self, module: nn.Module, args: tuple) -> None:
        if self.edits:
            args[0].copy_(self._visit(args[0].clone()))
        else:
            self._visit(args[0])

    def _after(self, module: nn.Module, args: tuple, output: Any) -> Any:
        form = self.place.form
        value = self._visit(form.read(module, output))
        return form.write(value, module, output) if self.edits else output

    def _visit(self, value: Tensor) -> Tensor:
        """Return `value` after all edits, and hand it to the recordings."""
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
