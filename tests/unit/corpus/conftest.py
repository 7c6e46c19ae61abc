"""Fixtures of the corpus tests."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def source(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Return a function that writes a source file into a fresh folder."""

    def write(name: str, content: bytes) -> Path:
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def data() -> Path:
    """Return the folder of real data; skip where there is none."""
    beside = Path(__file__).parents[4] / "shared" / "data"
    folder = Path(os.environ.get("DEEPSEEMOE_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; DEEPSEEMOE_DATA names its folder")
    return folder
