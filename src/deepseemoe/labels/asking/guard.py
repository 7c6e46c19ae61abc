"""The last word on a budget: no request leaves that could exceed it, whatever was estimated."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deepseemoe.labels.asking.bill import Bill
from deepseemoe.labels.asking.budget import Budget
from deepseemoe.labels.asking.question import Unanswered, Usage


class Guard:
    """Holds what requests under way may take at most against what the bill leaves of a budget."""

    def __init__(self, budget: Budget, bill: Bill):
        self._budget, self._bill = budget, bill
        self._under_way: list[Usage] = []
        self._ended = asyncio.Condition()

    @asynccontextmanager
    async def room(self, most: Usage) -> AsyncIterator[None]:
        """Let a request take `most`; where there is no room, wait for those under way to end.

        Raises Unanswered with status `budget` where none is under way and there still is none.
        """
        async with self._ended:
            while not self._admits(most):
                if not self._under_way:
                    self._bill.stopped = "budget"
                    raise Unanswered("budget", "the budget ends before it")
                await self._ended.wait()
            self._under_way.append(most)
        try:
            yield
        finally:
            self._under_way.remove(most)
            async with self._ended:
                self._ended.notify_all()

    def _admits(self, most: Usage) -> bool:
        total = self._bill.usage.plus(most)
        for one in self._under_way:
            total = total.plus(one)
        return self._budget.admits(total)
