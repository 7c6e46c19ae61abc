"""Which dictionaries of a run are trained by one job, from one pass over the stores."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from deepseemoe.config.run import RunConfig
from deepseemoe.names import Window


class Member(NamedTuple):
    """A named dictionary on one window."""

    dictionary: str
    window: Window


Group = tuple[Member, ...]
Fits = Callable[[Group], bool]
"""Whether one job can train these together."""


def groups_of(run: RunConfig, fits: Fits) -> list[Group]:
    """Return all dictionaries of a run in groups, each filled while it `fits`.

    A group shares batch_tokens, so that it sees the same batches, and goes by windows, whose
    dictionaries share what is read. One that does not fit alone is a group all the same.
    """
    groups: list[list[Member]] = []
    open_groups: dict[int, list[Member]] = {}
    for member in members_of(run):
        batch_tokens = run.dictionaries[member.dictionary].batch_tokens
        group = open_groups.get(batch_tokens)
        if group is None or not fits((*group, member)):
            group = open_groups[batch_tokens] = []
            groups.append(group)
        group.append(member)
    return [tuple(group) for group in groups]


def members_of(run: RunConfig) -> Sequence[Member]:
    """Return all dictionaries that a run trains, window by window."""
    trained = [name for name, entry in run.dictionaries.items() if not entry.imported]
    return [Member(name, window) for window in run.windows for name in trained]


def at_most(n_together: int) -> Fits:
    """Return whether a group has no more than `n_together` dictionaries."""
    return lambda group: len(group) <= n_together
