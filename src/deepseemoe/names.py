"""The names of things in configuration, paths, tables and stores: parsing and formatting."""

import re
from typing import Literal, NamedTuple, get_args

Split = Literal["train", "select", "test"]
SPLITS: tuple[str, ...] = get_args(Split)

HookPoint = Literal[
    "resid_pre",
    "attn_out",
    "resid_mid",
    "moe_in",
    "expert_out",
    "shared_out",
    "moe_out",
    "resid_post",
]
HOOK_POINTS: tuple[str, ...] = get_args(HookPoint)

RoutingArray = Literal["router_logits", "expert_ids", "expert_weights"]
ROUTING_ARRAYS: tuple[str, ...] = get_args(RoutingArray)

_WINDOW = re.compile(r"L(\d{2,3})-L(\d{2,3})")
_EXPERT = re.compile(r"L(\d{2,3})\.([ES])(\d+)")
_FEATURE = re.compile(r"(L\d{2,3}-L\d{2,3})\.F(\d+)")
_SITE = re.compile(r"(\w+)/L(\d{2,3})")


class Window(NamedTuple):
    """A contiguous run of layers that one dictionary spans; both ends are in it, counted from 0."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> "Window":
        """Read `L08-L10`; raise ValueError where it is not a window or runs backwards."""
        match = _WINDOW.fullmatch(text)
        if not match:
            raise ValueError(f"a window is written L08-L10 (first and last layer), not {text!r}")
        window = cls(*map(int, match.groups()))
        if window.last < window.first:
            raise ValueError(f"last layer {window.last} comes before first layer {window.first}")
        return window

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of the window, in order."""
        return tuple(range(self.first, self.last + 1))

    def __str__(self) -> str:
        return f"{layer_name(self.first)}-{layer_name(self.last)}"


class ExpertId(NamedTuple):
    """One expert of one layer; shared experts are numbered apart from routed ones."""

    layer: int
    expert: int
    is_shared: bool = False

    @classmethod
    def parse(cls, text: str) -> "ExpertId":
        """Read `L08.E17`, or `L08.S0` for a shared expert."""
        match = _EXPERT.fullmatch(text)
        if not match:
            raise ValueError(f"an expert is written L08.E17 (shared: L08.S0), not {text!r}")
        return cls(int(match[1]), int(match[3]), match[2] == "S")

    def __str__(self) -> str:
        return f"{layer_name(self.layer)}.{'S' if self.is_shared else 'E'}{self.expert}"


class FeatureId(NamedTuple):
    """One feature of the dictionary of one window."""

    window: Window
    feature: int

    @classmethod
    def parse(cls, text: str) -> "FeatureId":
        """Read `L08-L10.F01234`."""
        match = _FEATURE.fullmatch(text)
        if not match:
            raise ValueError(f"a feature is written L08-L10.F01234, not {text!r}")
        return cls(Window.parse(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.window}.F{self.feature:05d}"


class Site(NamedTuple):
    """A hook point at a layer: the name of one array of an activation store, `resid_post/L08`."""

    hook_point: str
    layer: int

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Read `resid_post/L08`."""
        match = _SITE.fullmatch(text)
        if not match or match[1] not in HOOK_POINTS + ROUTING_ARRAYS:
            known = ", ".join(HOOK_POINTS)
            raise ValueError(f"a site is written resid_post/L08, with one of {known}; not {text!r}")
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"{self.hook_point}/{layer_name(self.layer)}"


def layer_name(layer: int) -> str:
    """Return `L08` for layer 8."""
    return f"L{layer:02d}"


def shard_name(shard: int) -> str:
    """Return `00003` for shard 3."""
    return f"{shard:05d}"
