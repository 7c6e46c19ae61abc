"""Configuration files, read as Snakemake reads them, but with errors that name file and line."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from deepseemoe.config.base import ConfigError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses keys that stand twice: the later one would win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            name = str(key.value)
            if name in first and name != "<<":
                told = f"the key {name!r} stands twice, first in line {first[name]}; leave one"
                raise yaml.constructor.ConstructorError(problem=told, problem_mark=key.start_mark)
            first[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def read_file(file: Path) -> dict[str, Any]:
    """Return what a configuration file holds; raise ConfigError, in one line, where it is none."""
    try:
        raw = _parsed(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}{_told(error)}") from None
    if not raw and not isinstance(raw, dict):
        raise ConfigError(f"{file}: is empty; expected keys and values, as name: my-run")
    if not isinstance(raw, Mapping):
        found = {"list": "a list", "str": "text"}.get(type(raw).__name__, "a single value")
        raise ConfigError(f"{file}: holds {found}; expected keys and values, as name: my-run")
    return dict(raw)


def _parsed(text: str) -> Any:
    """Return what a text holds, tried as JSON first, as Snakemake does: JSON may hold tabs."""
    try:
        return json.loads(text)
    except ValueError:
        return _Loader(text).get_single_data()


def _told(error: yaml.YAMLError) -> str:
    """Return where a file is no YAML, and why."""
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}" if mark else ""
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    if "'\\t'" in problem:
        problem = "a tab; indent with spaces"
    return f"{where}: is not YAML: {problem}" if "twice" not in problem else f"{where}: {problem}"


def merged(files: Iterable[Path]) -> dict[str, Any]:
    """Return the configuration as Snakemake merges it, the later file over the earlier."""
    config: dict[str, Any] = {}
    for file in files:
        _update(config, read_file(file))
    return config


def _update(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _update(into[key], value)
        else:
            into[key] = value
