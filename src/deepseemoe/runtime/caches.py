"""Where numba keeps what it compiled, on machines that let it write nowhere.

It writes beside our code, or else below the user's home, and raises where it can do neither: as in
a container that is read-only, run without a home.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def keep_compiled() -> None:
    """Give numba a folder of this process, where no other may be written.

    It is private and ends with the process: what lies in a folder of all users could be anybody's.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.environ.get("NUMBA_CACHE_DIR") or _is_writable(PACKAGE) or _is_writable(Path(home)):
        return
    folder = tempfile.mkdtemp(prefix="deepseemoe-numba-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["NUMBA_CACHE_DIR"] = folder


def _is_writable(folder: Path) -> bool:
    """Return whether a folder can be written, or made where it is not there."""
    above = (folder, *folder.absolute().parents)
    existing = next(path for path in above if os.path.exists(path))
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
