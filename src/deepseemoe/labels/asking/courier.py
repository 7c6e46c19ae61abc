"""A process of its own sends the requests, so that answers reach even a run that is gone.

A request that is under way when its run is killed will be answered, and paid for, all the same. So
`carrying` sends it, in a session of its own and no child of the run, so that no signal to the run
reaches it. It keeps every answer until the run says that it has it, and where the run ends before,
however it ends, it waits for what is under way and leaves all that nobody has in the file `late`,
which the next run takes over. Nothing of this helps where a machine dies, or a batch system kills
all processes of a job.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.locks import locked
from deepseemoe.labels.asking.question import Stopped
from deepseemoe.labels.asking.reply import Endpoint, Reply

LINE_BYTES = 1 << 28
"""The longest line between the two: a few hundred vectors."""

GRACE_SECONDS = 10.0
"""Added to the wait for an answer, in waiting for an earlier run's courier."""


class Courier:
    """Sends requests through a process of its own; `open` it first, and `close` it."""

    def __init__(self, config: LabelsConfig, late: Path, *, is_kept: Callable[[str], bool]):
        """Take the file of late answers, and what says whether the answer under a hash is kept."""
        self._config, self._late, self._is_kept = config, late, is_kept
        self._replies: dict[str, Reply] = {}
        """Of an earlier run, by content hash"""
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def open(self) -> int:
        """Start the process; return how many answers an earlier one has left.

        Waits for one that still is under way. Raises Stopped where it does not end in time.
        """
        self._replies = await self._left_before()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deepseemoe.labels.asking.carrying"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=LINE_BYTES,
            start_new_session=True,
        )
        self._say({"config": self._config.model_dump(mode="json"), "late": str(self._late)})
        assert self._process.stdout is not None
        if not await self._process.stdout.readline():  # what is sent before would come in a burst
            raise Stopped(f"{self._late.parent}: {_GONE.problem}, before it began; try again")
        self._reader = asyncio.create_task(self._read())
        return len(self._replies)

    async def post(self, endpoint: Endpoint, body: Mapping[str, Any], key: str) -> Reply:
        """Return the reply to a request under its content hash; say `received` once it is kept."""
        early = self._replies.pop(key, None)
        if early is not None:
            return early
        if self._reader is None or self._reader.done():
            return _GONE
        future = self._waiting[key] = asyncio.get_running_loop().create_future()
        self._say({"key": key, "endpoint": endpoint, "body": body})
        return await future

    def received(self, key: str) -> None:
        """Let the process forget an answer."""
        self._say({"received": key})

    async def close(self) -> None:
        """End the process, when what is under way has come in."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        if self._reader is not None:
            await self._reader  # to the end of its output, which is its own end
        self._process = None
        if not await self._left_before():
            self._late.unlink(missing_ok=True)

    def _say(self, message: Mapping[str, Any]) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def _read(self) -> None:
        """Hand out replies as they come in; where the process has ended, nobody waits any more."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                message = json.loads(line)
                future = self._waiting.pop(message["key"], None)
                if future is not None and not future.done():
                    future.set_result(Reply(**message["reply"]))
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_result(_GONE)

    async def _left_before(self) -> dict[str, Reply]:
        """Return what an earlier process has left, when it has ended."""
        waited, most = 0.0, self._config.timeout_seconds + GRACE_SECONDS
        while (found := take_late(self._late)) is None:
            if waited > most:
                raise Stopped(
                    f"{self._late}: a process of an earlier run holds it after {most:.0f} s; end it"
                )
            await asyncio.sleep(0.1)
            waited += 0.1
        return self._new(found)

    def _new(self, replies: Mapping[str, Reply]) -> dict[str, Reply]:
        """Return the replies that are not kept yet."""
        return {key: reply for key, reply in replies.items() if not self._is_kept(key)}


_GONE = Reply(None, "", problem="the process that sends requests has ended", is_reached=False)


def take_late(path: Path) -> dict[str, Reply] | None:
    """Return replies by content hash; None where a process still waits for more."""
    if not path.exists():
        return {}
    file = os.open(path, os.O_RDWR)  # a lock on a network file system asks for writing
    try:
        if not locked(file):
            return None
        lines = path.read_bytes().splitlines(keepends=True)
    finally:
        os.close(file)
    return dict(filter(None, map(_late_reply, lines)))


def _late_reply(line: bytes) -> tuple[str, Reply] | None:
    """Return content hash and reply of a line; None where it is damaged, and is asked again."""
    try:
        one = json.loads(line) if line.endswith(b"\n") else None
        return one and (str(one["key"]), Reply(**one["reply"]))
    except (ValueError, LookupError, TypeError):
        return None
