"""Many items at once, in order of value, as far as a budget reaches: the same ones in every run.

Which items are left out must not depend on who answers first. So an item waits until it fits beside
the usage of all that have ended, oldest first, and the estimates of those that have not; one that
does not fit when all before it have ended is left out, and all behind it. An item `width` before it
that hangs holds it up, so `width` should be some times the requests under way.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from deepseemoe.labels.asking.bill import Bill
from deepseemoe.labels.asking.budget import Budget
from deepseemoe.labels.asking.question import Asker, Usage

T = TypeVar("T")

NOTHING = Usage()


class Asks(Protocol):
    """What hands out askers and keeps a bill: a `client.Client`."""

    bill: Bill

    def asker(self) -> Asker:
        """Return an asker with no usage so far."""
        ...


async def in_order(
    n: int,
    work: Callable[[int, Asker], Awaitable[T]],
    *,
    client: Asks,
    estimate: Usage,
    budget: Budget,
    width: int,
    spent: Usage = NOTHING,
) -> list[T | None]:
    """Return what `work` makes of items 0 to n - 1; None for those the budget leaves out.

    An item is taken to need `estimate`, or the most that one has taken so far, if that is more.
    `spent` is gone from the budget already. After the first item that does not fit none is begun,
    and `bill.stopped` is "budget". Where an item raises, the others are cancelled, and its error
    is raised.
    """
    results: list[T | None] = [None] * n
    tasks: dict[int, asyncio.Task[None]] = {}
    askers: dict[int, Asker] = {}
    error: BaseException | None = None

    def fits() -> bool:
        """Return whether one more item may begin."""
        return budget.admits(spent.plus(_times(estimate, len(tasks) + 1)))

    async def run(item: int) -> None:
        results[item] = await work(item, askers[item])

    try:
        async with asyncio.TaskGroup() as group:
            for item in range(n):
                while tasks and (len(tasks) >= width or not fits()):
                    oldest = next(iter(tasks))
                    await tasks.pop(oldest)
                    took = askers.pop(oldest).usage
                    spent, estimate = spent.plus(took), _larger(estimate, took)
                if not fits():
                    client.bill.stopped = "budget"
                    break
                askers[item] = client.asker()
                tasks[item] = group.create_task(run(item))
    except* Exception as failed:
        error = _first(failed)
    if error is not None:
        raise error
    return results


def _larger(one: Usage, other: Usage) -> Usage:
    return Usage(*map(max, one, other))


def _times(usage: Usage, count: int) -> Usage:
    return Usage(*(count * number for number in usage))


def _first(group: BaseException) -> BaseException:
    """Return the first error of a group."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
