"""Where published routing lies; tests of it are skipped where it does not."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("DEEPSEEMOE_DATA", Path(__file__).parents[4] / "shared" / "data"))


def needs(*parts):
    """Return the path of a published file, and the mark that skips tests without it."""
    path = DATA.joinpath(*parts)
    reason = f"{'/'.join(parts)}: set DEEPSEEMOE_DATA to the folder of published data"
    return path, pytest.mark.skipif(not path.exists(), reason=reason)
