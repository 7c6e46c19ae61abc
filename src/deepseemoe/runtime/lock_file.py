"""A file whose bytes the kernel locks, each for one process, with notes of who holds them.

Locks end with the process that holds them, however it ends. Files are never removed: to remove one
that another process is about to lock lets two in. On a file system without locks nothing is held.

Standard library only: the Snakefile asks for it.
"""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LARGEST = (1 << 62) - 1
"""Of the places in a file that can be locked."""

N_NOTES, NOTE_BYTES = 256, 192
_UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems say that have no locks."""


class Note(NamedTuple):
    """Who holds a lock: `work` names what a job does, so that equal jobs know one another."""

    key: str
    pid: int
    host: str
    since: str
    rule: str
    work: str

    def __str__(self) -> str:
        rule = f", rule {self.rule}" if self.rule else ""
        return f"process {self.pid} on {self.host}{rule}, since {self.since}"


class LockFile:
    """A file of which bytes are locked, each by one process; the kernel frees them with it."""

    def __init__(self, path: Path):
        """Open the file, made where there is none; raise OSError where nothing can be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.ftruncate(self._file, N_NOTES * NOTE_BYTES)
        except OSError as error:
            raise OSError(_no_lock_file(path, error)) from None
        self._own: dict[str, bytes] = {}

    def close(self) -> None:
        """Wipe the notes and let go of all locks."""
        for key, text in self._own.items():
            if self._read(key) == text:
                os.pwrite(self._file, bytes(NOTE_BYTES), _place(key))
        os.close(self._file)

    def lock(self, keys: Sequence[str]) -> str | None:
        """Lock all keys and return None, or none of them and return the first that is held."""
        for place, key in enumerate(keys):
            if not self._lock(key):
                for held in keys[:place]:
                    self._unlock(held)
                return key
        return None

    def write(self, keys: Sequence[str], *, rule: str = "", work: str = "") -> Note:
        """Note that this process holds the keys."""
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        host = socket.gethostname()[:40]
        for key in reversed(keys):  # where two share a place, the first is asked for
            note = Note(key, os.getpid(), host, since, rule[:40], work)
            self._own[key] = json.dumps(note).encode().ljust(NOTE_BYTES, b"\0")[:NOTE_BYTES]
            os.pwrite(self._file, self._own[key], _place(key))
        os.fsync(self._file)  # other machines see it
        return note

    def wipe(self) -> None:
        """Wipe all notes, which the holder of the file's only lock may do."""
        os.pwrite(self._file, bytes(N_NOTES * NOTE_BYTES), 0)

    def tidy(self) -> None:
        """Wipe notes of locks that nobody holds, left by kill -9, and what is no note at all.

        Not for a process that holds some itself.
        """
        for place in range(0, N_NOTES * NOTE_BYTES, NOTE_BYTES):
            text = os.pread(self._file, NOTE_BYTES, place).rstrip(b"\0")
            key = _key_of(text)
            if text and (key is None or self.lock([key]) is None):
                os.pwrite(self._file, bytes(NOTE_BYTES), place)
                if key is not None:
                    self._unlock(key)

    def note(self, key: str) -> Note | None:
        """Return who noted to hold a key, true only while it is locked; None where nobody did."""
        try:
            note = Note(*json.loads(self._read(key).rstrip(b"\0")))
        except (ValueError, TypeError):  # nothing, or two wrote at once
            return None
        return note if note.key == key else None

    def _read(self, key: str) -> bytes:
        return os.pread(self._file, NOTE_BYTES, _place(key))

    def _lock(self, key: str) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(key, 16) & LARGEST)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise
        return True

    def _unlock(self, key: str) -> None:
        with suppress(OSError):  # of a file system without locks
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, int(key, 16) & LARGEST)


def _place(key: str) -> int:
    return int(key, 16) % N_NOTES * NOTE_BYTES


def _key_of(text: bytes) -> str | None:
    """Return the key that a note is about; None where the text is no note."""
    try:
        key = Note(*json.loads(text)).key
        return key if int(key, 16) >= 0 else None
    except (ValueError, TypeError):
        return None


def _no_lock_file(path: Path, error: OSError) -> str:
    """Return in a line why a file of locks cannot be opened, and what to do."""
    odd = next(
        (p for p in (path.parent, path) if os.path.lexists(p) and not _is_kind(p, path)), None
    )
    if odd is not None:
        return f"{odd}: no {'file' if odd == path else 'folder'}, where jobs hold locks; delete it"
    return (
        f"{path.parents[1]}: nothing can be written there ({error.strerror}); make it "
        "writable, make room, or name another folder at pathvars.results"
    )


def _is_kind(path: Path, file: Path) -> bool:
    """Return whether a path is what it must be: a file, or the folder of one."""
    return path.is_file() if path == file else path.is_dir()
