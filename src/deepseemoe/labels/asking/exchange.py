"""A request that is answered once and for all: kept, or sent until there is an answer to keep.

An answer is in the file in the same step of the event loop in which it was received, and the
courier keeps what comes in after a kill, so a request is never sent again that was answered.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, NoReturn

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.answers import Answers, content_hash
from deepseemoe.labels.asking.bill import Bill
from deepseemoe.labels.asking.budget import Budget
from deepseemoe.labels.asking.courier import Courier
from deepseemoe.labels.asking.guard import Guard
from deepseemoe.labels.asking.limits import Limits, retry_after
from deepseemoe.labels.asking.question import Stopped, Unanswered, Usage
from deepseemoe.labels.asking.reply import Endpoint, Reply
from deepseemoe.labels.asking.retries import PATIENCE, judge, wait_before
from deepseemoe.labels.asking.secrets import Scrubber, api_key, where_of

logger = logging.getLogger(__name__)

Kept = Mapping[str, Any]
"""What is kept of an answer: plain data with `usage` as a list, or why it was `rejected`"""

SILENT = 20
"""Requests in a row without any answer, after which the server is taken for gone; at least three
times those under way at once."""


class Request:
    """What is asked, how it is sent, and how the body of an answer becomes plain data to keep."""

    endpoint: Endpoint = "chat"
    purpose: str
    asked: Any
    """Plain data that names it: whatever changes the answer, and nothing else"""
    most: Usage
    """What it may take"""

    def body(self) -> dict[str, Any]:
        """Return what is sent."""
        raise NotImplementedError

    def keep(self, body: Any) -> Kept:
        """Return what is kept of an answer."""
        raise NotImplementedError

    def adapts(self, reply: Reply) -> bool:
        """Return whether the next `body` avoids what the server has just rejected."""
        return False

    def is_good(self, kept: Kept) -> bool:
        """Return whether a kept answer still is one."""
        return True


class Exchange:
    """Gets answers from the file or the server, a few at once; one for all askers of a run."""

    def __init__(self, config: LabelsConfig, answers: Answers, bill: Bill, budget: Budget):
        self.config, self.answers, self.bill = config, answers, bill
        self._guard = Guard(budget, bill)
        self.scrub = Scrubber(api_key(config))
        self.where = self.scrub(where_of(config))
        self.limits = Limits(config)
        self.is_reached = False
        """Whether there is a server, if only one that fails"""
        self._courier = Courier(config, answers.late, is_kept=answers.holds)
        self._slots = asyncio.Semaphore(config.concurrency)
        self._under_way: dict[str, asyncio.Event] = {}
        self._n_silent = 0
        self._stopped: str | None = None

    async def open(self) -> None:
        """Begin; answers that came in after an earlier run was killed are taken over."""
        n_late = await self._courier.open()
        if n_late:
            logger.info("%d answers came in after an earlier run had ended", n_late)

    async def close(self) -> None:
        """Close all connections."""
        await self._courier.close()

    async def answer(self, request: Request) -> Kept:
        """Return the answer to a request; who asks the same meanwhile waits for it.

        Raises Unanswered with status `server` after all retries, Stopped where asking is of no use.
        """
        key = content_hash(request.asked)
        while key in self._under_way:
            await self._under_way[key].wait()
        kept, is_kept = self.answers.get(key), True
        if kept is None or not request.is_good(kept):
            done = self._under_way[key] = asyncio.Event()
            try:
                kept, is_kept = await self._get(request, key)
            finally:
                del self._under_way[key]
                done.set()
        if is_kept:
            self._count(request, key, kept, is_kept=True)
        return kept

    def _count(self, request: Request, key: str, kept: Kept, *, is_kept: bool) -> None:
        self.bill.answered(key, request.purpose, Usage(*kept["usage"]), cached=is_kept)

    async def _get(self, request: Request, key: str) -> tuple[Kept, bool]:
        """Return an answer, and whether another run has been faster."""
        async with self.answers.claimed(key):
            kept = self.answers.get(key)
            if kept is not None and request.is_good(kept):
                return kept, True
            return await self._fetch(request, key), False

    async def _fetch(self, request: Request, key: str) -> Kept:
        n_errors = n_hurries = 0
        while True:
            kept, reply = await self._send(request, key)
            if kept is not None:
                return kept
            verdict = judge(reply, key_name=self.config.api_key_env)
            if verdict.step == "rejected":  # and adapted to
                continue
            if verdict.step == "stop":
                self.stop(f"{self._said(reply)}; {verdict.advice}")
            n_errors += verdict.step == "again"
            n_hurries += verdict.step == "slower"
            most = self.config.max_retries
            if n_errors > most or n_hurries > PATIENCE * most:
                raise Unanswered("server", self._said(reply))
            self.bill.retried()
            seconds = wait_before(reply, n_errors + n_hurries - 1, key=key)
            logger.debug("%s; again in %.1f s", self._said(reply), seconds)
            if verdict.step == "slower" or retry_after(reply.headers) is not None:
                self.limits.pause(seconds)
            else:
                await asyncio.sleep(seconds)

    async def _send(self, request: Request, key: str) -> tuple[Kept | None, Reply]:
        """Send a request once; return what is kept of its answer, None where there is none."""
        async with self._guard.room(request.most), self._slots:
            ticket = await self._turn(request.most.n_tokens)
            n_tokens, reply = None, Reply(None, "")
            try:
                reply = await self._courier.post(request.endpoint, request.body(), key)
                kept = self._kept(request, reply)  # in the same step as the answer's last byte
                if kept is not None:
                    self.answers.add(key, kept)
                    self._count(request, key, kept, is_kept=False)
                    n_tokens = sum(kept["usage"][:2])
                self._courier.received(key)
            finally:
                self.limits.end(ticket, reply.headers, n_tokens)
            self._count_silence(reply)
        return kept, reply

    def _kept(self, request: Request, reply: Reply) -> Kept | None:
        step = judge(reply, key_name=self.config.api_key_env).step
        if step == "keep":
            return request.keep(reply.body)
        if step == "rejected" and not request.adapts(reply):
            return {"rejected": self.scrub.line(reply.said), "usage": [0, 0, 1]}
        return None

    async def _turn(self, n_tokens: int) -> list[float]:
        if self._stopped is not None:
            raise Stopped(self._stopped)
        try:
            ticket = await self.limits.begin(n_tokens)
        except Stopped as late:
            self.stop(str(late))
        if self._stopped is not None:
            self.limits.end(ticket, {}, 0)
            raise Stopped(self._stopped)
        return ticket

    def _count_silence(self, reply: Reply) -> None:
        """Stop where the server has gone away for good."""
        self.is_reached |= reply.is_reached
        if reply.status is not None:
            self._n_silent = 0
            return
        self._n_silent += 1
        if self._n_silent >= max(SILENT, 3 * self.config.concurrency):
            self.stop(f"{self._said(reply)} {self._n_silent} times in a row; start the server")

    def stop(self, what: str) -> NoReturn:
        """Raise Stopped here and for whoever asks after that, in one line that says where."""
        kept = "; answers so far are kept" if len(self.answers) else ""
        self._stopped = f"{self.where}: {what}{kept}"
        raise Stopped(self._stopped)

    def _said(self, reply: Reply) -> str:
        return self.scrub.line(reply.said)
