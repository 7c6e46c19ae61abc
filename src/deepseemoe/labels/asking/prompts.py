"""The words of asking: files with blanks, ours or of the user's folder, named by a digest."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from deepseemoe.runtime.tables import digest

NAMES = (
    *("explain", "near_misses", "detect", "fuzz", "intruder", "simulate"),
    *("explain_expert", "route"),
)


def prompt(name: str, folder: str | Path | None = None, **blanks: Any) -> str:
    """Return a prompt with its blanks filled in; a file of `folder` goes before ours.

    Raises ValueError where a file of the user lacks a blank, or has one that nobody fills.
    """
    text, path = _text(name, folder), _own(name, folder)
    wanted, found = set(blanks), set(Template(text).get_identifiers())
    ours = set(Template(_text(name, None)).get_identifiers())
    lacking, unknown = sorted(ours - found), sorted(found - wanted)
    if path and (lacking or unknown or not Template(text).is_valid()):
        what = [f"lacks ${blank}" for blank in lacking] + [
            f"has ${blank}, which nothing fills" for blank in unknown
        ]
        said = ", ".join(what) or "has a $ that opens no blank; write $$"
        raise ValueError(f"{path} {said}; its blanks are ${', $'.join(sorted(ours))}")
    return Template(text).substitute(blanks)


def prompt_problem(folder: str | Path) -> str | None:
    """Return what is wrong with a folder of prompts, before anything is asked; None where nothing.

    All its files are looked at as `prompt` does, by the blanks that ours have.
    """
    try:
        prompt_versions(folder)
        for name in NAMES:
            if _own(name, folder):
                blanks = Template(_text(name, None)).get_identifiers()
                prompt(name, folder, **dict.fromkeys(blanks, ""))
    except (ValueError, OSError) as error:
        return str(error)
    return None


def prompt_versions(folder: str | Path | None = None) -> Mapping[str, str]:
    """Return a digest of each prompt, for manifests. Raises ValueError where the folder is none."""
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"labels.prompts: {folder} is no folder; name one that holds detect.txt")
    return {name: digest(_text(name, folder)) for name in NAMES}


def _own(name: str, folder: str | Path | None) -> Path | None:
    """Return the user's file, None where there is none."""
    path = Path(folder, f"{name}.txt") if folder is not None else None
    return path if path and path.is_file() else None


def _text(name: str, folder: str | Path | None) -> str:
    path = _own(name, folder)
    if path:
        try:
            return path.read_text("utf-8")
        except UnicodeDecodeError as error:
            told = f"byte {error.start} is not UTF-8; save it as UTF-8"
            raise ValueError(f"labels.prompts: {path}: {told}") from None
    return files("deepseemoe.labels").joinpath("prompts", f"{name}.txt").read_text("utf-8")
