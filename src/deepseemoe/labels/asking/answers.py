"""Every answer of a server, kept under a hash of what was asked, so that nothing is paid for twice.

One line of JSON an answer in a growing file of one writer: no database to lock on a network file
system, and a killed run loses at most the line that it was writing. Several writers share a folder
by names of their own; each reads the answers of all. Each line ends in the crc32c of what stands
before: one that does not fit is passed over, and asked for again (lines of older runs have none).
Memory holds places in the files, not texts: about 130 bytes an answer, so 800,000 take 100 MB.
"""

import json
import logging
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import google_crc32c

from deepseemoe.labels.asking.locks import Claims, locked
from deepseemoe.runtime.files import remove
from deepseemoe.runtime.tables import digest

logger = logging.getLogger(__name__)

PREFIX = b'{"asked": "'
KEY = slice(len(PREFIX), len(PREFIX) + 16)
SUM = b', "crc32c": "'
_KEY = re.compile(rb"[0-9a-f]{16}")

OFFSET_BITS = 44
"""Of a place: the file's number stands above, the offset below (16 TB)."""

LOCK_SECONDS = 3600.0
"""Wait for another writer: a job may have outlived the workflow that started it."""


def content_hash(asked: Any) -> str:
    """Return the 16 digits under which the answer to `asked`, plain data, is kept."""
    return digest(asked)


class Answers:
    """A book of answers in a folder; use it as a context manager.

    Raises ValueError where another process writes under the same name.
    """

    def __init__(self, folder: Path, name: str):
        """Read where the answers of all files are; what a killed run left half written is cut."""
        own = self._own_path = folder / f"{name}.jsonl"
        _make_way(folder, own, folder / "claims.lock")
        self._folder, self._claims = folder, Claims(folder / "claims.lock")
        self.late = folder / f"{name}.late"
        """Where a courier leaves what came in too late; see courier.py"""
        self._own = os.open(own, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._places: dict[int, int] = {}
        self._files: list[int] = []
        self._read: dict[Path, tuple[int, int]] = {}
        """Of other writers' files: their number, and how far they were read"""
        try:
            _lock(self._own, own)
            self._read_others()
            self._number = len(self._files)
            self._files.append(self._own)
            os.ftruncate(self._own, self._index(self._number))
        except BaseException:
            self.close()
            raise
        self._end = os.fstat(self._own).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files, and let go of the name."""
        for file in {self._own, *self._files}:
            os.close(file)
        self._files = []
        self._claims.close()

    def __len__(self) -> int:
        return len(self._places)

    def holds(self, key: str) -> bool:
        """Return whether there is an answer under a `content_hash`."""
        return int(key, 16) in self._places

    def get(self, key: str) -> Any | None:
        """Return the answer under a `content_hash`; None where there is none."""
        place = self._places.get(int(key, 16))
        if place is None:
            return None
        line = _line(self._files[place >> OFFSET_BITS], place & ((1 << OFFSET_BITS) - 1))
        return json.loads(line)["answer"]

    def add(self, key: str, answer: Any) -> None:
        """Keep an answer, plain data; the system has it when this returns, so a kill keeps it."""
        line = json.dumps({"asked": key, "answer": answer}).encode()[:-1]
        line += SUM + f'{google_crc32c.value(line):08x}"}}\n'.encode()
        written = os.write(self._own, line)
        if written != len(line):
            os.ftruncate(self._own, self._end)
            raise OSError(f"no room for the answers: {written} of {len(line)} bytes were written")
        self._places[int(key, 16)] = self._place(self._number, self._end)
        self._end += len(line)

    @asynccontextmanager
    async def claimed(self, key: str) -> AsyncIterator[None]:
        """Be the only run that asks for an answer; what others have answered by then is there."""
        async with self._claims.hold(int(key, 16)):
            self._read_others()
            yield

    def _read_others(self) -> None:
        """Note the answers that other writers have added since they were read last."""
        for path in sorted(self._folder.glob("*.jsonl")):
            if path == self._own_path:
                continue
            if path not in self._read:
                self._files.append(os.open(path, os.O_RDONLY))
                self._read[path] = len(self._files) - 1, 0
            number, offset = self._read[path]
            self._read[path] = number, self._index(number, offset)

    def _index(self, number: int, offset: int = 0) -> int:
        """Note where the answers of a file are, from a line on; return where its last one ends."""
        with open(self._files[number], "rb", closefd=False) as lines:
            lines.seek(offset)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                if _is_whole(line):
                    self._places[int(line[KEY], 16)] = self._place(number, offset)
                offset += len(line)
        return offset

    @staticmethod
    def _place(number: int, offset: int) -> int:
        return number << OFFSET_BITS | offset


def _make_way(folder: Path, *files: Path) -> None:
    """Make the folder of answers; what stands there and is none, or no file in it, is removed."""
    if folder.is_symlink() and not folder.exists():
        raise ValueError(
            f"{folder}: a link that leads nowhere; mount its disk, or delete the link to ask anew"
        )
    if not folder.is_dir():
        remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        if file.is_dir():
            remove(file)


def _is_whole(line: bytes) -> bool:
    """Return whether a line is an answer, as it was written."""
    if not (line.startswith(PREFIX) and _KEY.fullmatch(line[KEY]) and line.endswith(b"}\n")):
        return False
    start = len(line) - len(SUM) - 11  # of 8 digits, a quotation mark, a brace, a line's end
    if line[start : start + len(SUM)] != SUM:
        return _is_json(line)
    return line[-11:] == f'{google_crc32c.value(line[:start]):08x}"}}\n'.encode()


def _is_json(line: bytes) -> bool:
    try:
        return "answer" in json.loads(line)
    except ValueError:
        return False


def _line(file: int, offset: int) -> bytes:
    """Return the line that starts at `offset`."""
    parts: list[bytes] = []
    while True:
        part = os.pread(file, 1 << 14, offset)
        end = part.find(b"\n") + 1
        parts.append(part[:end] if end else part)
        if end or not part:
            return b"".join(parts)
        offset += len(part)


def _lock(file: int, path: Path) -> None:
    """Be the only writer, until the process ends in whatever way."""
    last = time.monotonic() + LOCK_SECONDS
    is_told = False
    while not locked(file):
        if not is_told:
            is_told = True
            logger.info("%s: another run writes its answers here; waiting for it", path)
        if time.monotonic() > last:
            raise ValueError(f"{path}: another run writes its answers here; wait for it or end it")
        time.sleep(0.05)
