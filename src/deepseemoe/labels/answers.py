"""Every answer of a language model, kept under a hash of what was asked, so nothing is asked twice.

One line of JSON an answer in one growing file: one writer, no database to lock on a network file
system, and a killed run loses at most the line that it was writing.
"""

import json
from io import BufferedRandom
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deepseemoe.runtime.tables import digest

FILE = "answers.jsonl"


class Answers:
    """A book of answers in a folder; use it as a context manager."""

    def __init__(self, folder: Path):
        """Read what was answered before; what a killed run left half written is cut off."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        path.touch()
        self._file: BufferedRandom = path.open("r+b")
        kept = self._file.read()
        whole = kept[: kept.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        self._file.seek(len(whole))
        entries = (json.loads(line) for line in whole.splitlines())
        self._answers: dict[str, str] = {entry["asked"]: entry["answer"] for entry in entries}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, asked: Any) -> str | None:
        """Return what was answered to `asked`, plain data; None where that is new."""
        return self._answers.get(digest(asked))

    def add(self, asked: Any, answer: str) -> None:
        """Keep an answer; it is in the file when this returns."""
        key = digest(asked)
        self._answers[key] = answer
        self._file.write(json.dumps({"asked": key, "answer": answer}).encode() + b"\n")
        self._file.flush()
