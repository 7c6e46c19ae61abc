"""Files that processes of one machine lock, whoever's they are.

Locks are flock's: the kernel lets go when the last process that has the file open is dead, so
nothing has to be tidied up after kill -9. The folder is open to all users and sticky, as /tmp is.
There the kernel (fs.protected_regular) forbids to create over another user's file, so a file is
opened first, and created only where there is none.
"""

import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
"""Where the folder is made: in the first that is there and may be written."""

NOT_THERE = (errno.ENOENT, errno.EROFS, errno.EACCES, errno.ENOTDIR)
FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
LONGEST_NOTE = 1000
OPENINGS = 5 * (os.O_RDWR, os.O_RDONLY, os.O_RDWR | os.O_CREAT | os.O_EXCL)
"""How a file is tried, more than once since others may make and remove it meanwhile."""


class Folder(NamedTuple):
    """An open folder of locks."""

    path: Path
    descriptor: int


@contextmanager
def lock_folder() -> Iterator[Folder]:
    """Open the folder of locks, made where it was not there.

    Raises OSError where no folder can be had, or one that others could take from under us.
    """
    folder = _found()
    try:
        yield folder
    finally:
        os.close(folder.descriptor)


def _found() -> Folder:
    if named := os.environ.get("DEEPSEEMOE_LOCKS"):
        path = Path(named).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        return _opened(path)
    for parent in map(Path, FOLDERS):
        try:
            return _opened(parent / f"deepseemoe-{safe(os.uname().nodename)}")
        except OSError as error:
            if error.errno not in NOT_THERE:
                raise
    raise OSError(
        f"none of {', '.join(FOLDERS)} can be written, where jobs lock the GPUs they use; name a "
        "folder in the environment variable DEEPSEEMOE_LOCKS"
    )


def _opened(path: Path) -> Folder:
    """Make a folder that all users may write to, unless it is there, and open it."""
    with suppress(FileExistsError), _no_mask():
        path.mkdir(mode=0o1777)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | FLAGS)
    except OSError as error:
        raise OSError(f"{path}: {_no_folder(error)}; {_REMEDY}") from None
    found = os.fstat(descriptor)
    if problem := _distrust(found):
        os.close(descriptor)
        raise OSError(f"{path}: {problem}; {_REMEDY}")
    return Folder(path, descriptor)


_REMEDY = "remove it, or name another folder in the environment variable DEEPSEEMOE_LOCKS"


def _no_folder(error: OSError) -> str:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "no folder, or a link, where jobs lock GPUs"
    return os.strerror(error.errno or 0)


def _distrust(found: os.stat_result) -> str | None:
    """Return why a folder cannot hold locks; None where it can."""
    is_open, is_sticky = found.st_mode & stat.S_IWOTH, found.st_mode & stat.S_ISVTX
    if is_open and not is_sticky:
        return "a folder in which every user may replace every file, found where jobs lock GPUs"
    if not is_open and found.st_uid not in (0, os.geteuid()):
        return f"a folder of user {found.st_uid} alone, found where all users' jobs lock GPUs"
    return None


@contextmanager
def _no_mask() -> Iterator[None]:
    mask = os.umask(0)
    try:
        yield
    finally:
        os.umask(mask)


def locked(folder: Folder, name: str) -> int | None:
    """Return a descriptor that holds the lock `name`, or None where another process holds it."""
    while True:
        descriptor = _file(folder, name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if _is_still(folder, name, descriptor):
            return descriptor
        os.close(descriptor)  # someone tidied up between opening and locking


def _file(folder: Folder, name: str) -> int:
    """Return the lock file, opened; one of another user may be readable only, which is enough."""
    problems: list[OSError] = []
    for flags in OPENINGS:
        try:
            with _no_mask():
                return os.open(name, flags | FLAGS, 0o666, dir_fd=folder.descriptor)
        except (FileNotFoundError, FileExistsError):
            continue
        except OSError as error:
            problems.append(error)
    why = os.strerror(problems[0].errno or 0) if problems else "others make and remove it"
    raise OSError(f"{folder.path / name}: the lock of a GPU cannot be opened ({why}); {_REMEDY}")


def _is_still(folder: Folder, name: str, descriptor: int) -> bool:
    ours = os.fstat(descriptor)
    try:
        named = os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (ours.st_ino, ours.st_dev) == (named.st_ino, named.st_dev)


def write_note(descriptor: int, note: dict[str, Any]) -> None:
    """Write into a lock who holds it, for people; nothing relies on it."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        return  # no file of ours
    with suppress(OSError):  # of another user, or a disk that is full
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(note).encode(), 0)


def read_note(folder: Folder, name: str) -> dict[str, Any]:
    """Return what the holder of a lock wrote, nothing where it did not; it is not to be trusted."""
    try:
        descriptor = os.open(name, os.O_RDONLY | FLAGS, dir_fd=folder.descriptor)
        try:
            note = json.loads(os.pread(descriptor, LONGEST_NOTE, 0))
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def tidy(folder: Folder, names: Iterable[str]) -> None:
    """Remove locks that nobody holds any more."""
    for name in names:
        descriptor = locked(folder, name)
        if descriptor is not None:
            with suppress(OSError):
                os.unlink(name, dir_fd=folder.descriptor)
            os.close(descriptor)


def safe(text: str) -> str:
    """Return a text with nothing in it but letters, digits, points and dashes."""
    return re.sub(r"[^A-Za-z0-9.-]", "_", text)
