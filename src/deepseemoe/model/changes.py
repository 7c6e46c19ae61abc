"""What interventions ask of a model's experts and routers, and how several become one.

Interventions add up whatever the order in which they began: bans and drops are unions, tokens lose
as many of their best experts as all masks say together. Of two numbers of active experts, the one
asked for last holds.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import NamedTuple, Protocol, TypeVar

from deepseemoe.model.hook_points import Decoder
from deepseemoe.names import layer_name

Value = TypeVar("Value", int, frozenset[int])
Experts = Mapping[int, frozenset[int]]
"""Some experts of each layer; layers without any are left out."""


class Handle(Protocol):
    """Undoes what was installed."""

    def remove(self) -> None:
        """Undo it."""


class Hooked(Protocol):
    """Something that has to fire exactly once in each forward pass."""

    name: str
    layer: int
    n_fired: int

    def install(self) -> Handle:
        """Begin."""


class Changes(NamedTuple):
    """All that is asked for, layer by layer; layers that a field leaves out stay as they are."""

    bans: Experts = {}
    n_masked: Mapping[int, int] = {}
    """How many of its best experts each token cannot choose."""
    top_k: Mapping[int, int] = {}
    drops: Experts = {}
    without_shared: frozenset[int] = frozenset()


def union(many: Iterable[Changes]) -> Changes:
    """Return what all changes ask for together; what asks for nothing is left out."""
    parts = Changes(*zip(*many, strict=True)) if (many := list(many)) else Changes()
    return Changes(
        _added(parts.bans, frozenset.union),
        _added(parts.n_masked, int.__add__),
        dict(chain.from_iterable(asked.items() for asked in parts.top_k)),
        _added(parts.drops, frozenset.union),
        frozenset().union(*parts.without_shared),
    )


def _added(many: Iterable[Mapping[int, Value]], add: Callable) -> dict[int, Value]:
    """Return the mappings as one, values of the same layer added."""
    whole: dict[int, Value] = {}
    for one in many:
        for layer, value in one.items():
            whole[layer] = add(whole[layer], value) if layer in whole else value
    return {layer: value for layer, value in sorted(whole.items()) if value}


def experts_by_layer(asked: Mapping[int, Iterable[int]]) -> Experts:
    """Return experts as a caller names them, as sets."""
    return {layer: frozenset(map(int, experts)) for layer, experts in asked.items()}


def expert_problems(decoder: Decoder, layer: int, experts: frozenset[int]) -> list[str]:
    """Return why experts of a layer cannot be named: the layer, or they, are not there."""
    if problem := decoder.layer_problem(layer):
        return [problem]
    last = len(decoder.router(layer).weight) - 1
    strange = sorted(expert for expert in experts if not 0 <= expert <= last)
    names = ", ".join(map(str, strange))
    return [f"there is no expert {names}, the last is {last}"] if strange else []


def refuse(what: str, problems: Iterable[tuple[int, str]]) -> None:
    """Raise one ValueError that names the problems of all layers, in their order."""
    found = [
        f"{layer_name(layer)}: {problem}"
        for layer, problem in sorted(problems, key=lambda found: found[0])
    ]
    if found:
        raise ValueError(f"these {what} are not possible: {'; '.join(found)}")
