"""Locks on files, which end with the process that holds them, in whatever way it ends."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


def locked(file: int) -> bool:
    """Lock an open file until it is closed; return whether that was possible."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system that knows no locks
        return True
    return True


@asynccontextmanager
async def alone(path: Path) -> AsyncIterator[None]:
    """Wait until no other process is in here under the same path."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not locked(file):
            await asyncio.sleep(0.05)
        yield
    finally:
        os.close(file)
