"""Locks on files, which end with the process that holds them, in whatever way it ends."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

LARGEST = (1 << 62) - 1
"""Of the places in a file that can be locked."""


def locked(file: int) -> bool:
    """Lock an open file until it is closed; return whether that was possible."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system that knows no locks
        return True
    return True


class Claims:
    """Numbers that one process at a time may hold: locks on single bytes of a file."""

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def close(self) -> None:
        """Let go of all."""
        os.close(self._file)

    @asynccontextmanager
    async def hold(self, number: int) -> AsyncIterator[None]:
        """Wait until no other process holds a number, then hold it. Not for two tasks of one."""
        while not self._try(number):
            await asyncio.sleep(0.05)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number & LARGEST)

    def _try(self, number: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number & LARGEST)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:  # a file system that knows no locks
            return True
        return True
