"""Which files a source reads: paths, globs and DCLM shards, on any fsspec file system."""

import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from glob import has_magic
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

import fsspec

from deepseemoe.config.corpus import CorpusConfig

logger = logging.getLogger(__name__)

HUB = "hf://datasets/"
"""What fsspec calls the data sets of the Hugging Face Hub; tests put another file system here."""

Kind = Literal["json", "parquet", "text"]

_COMPRESSIONS = {".zst": "zst", ".zstd": "zst", ".gz": "gz"}
_KINDS: dict[str, Kind] = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    "": "json",  # Dolma names some shards x.zst
    ".txt": "text",
}
_PREFERRED: tuple[Kind, ...] = ("json", "parquet", "text")
_READABLE = ".jsonl, .json.gz, .jsonl.gz, .jsonl.zst, .zst, .parquet or .txt"
_GLOBAL_SHARD = re.compile(r"global-shard_(\d+)_of_\d+")
_LOCAL_SHARD = re.compile(r"local-shard_(\d+)_of_\d+")


class SourceFile(NamedTuple):
    """A file to read: its address, its name below the folder that holds all files, its format."""

    url: str
    name: str
    kind: Kind
    compression: Literal["", "zst", "gz"]

    @property
    def shown(self) -> str:
        """The file as messages show it."""
        return self.url.removeprefix("file://")


def list_files(config: CorpusConfig, *, hub: str = HUB) -> list[SourceFile]:
    """Return the files of sources `files` and `hub`, sorted by name, after shards and fraction.

    Raises ValueError where a path matches nothing, or nothing is left.
    """
    if config.source == "hub":
        urls = _list_hub(hub + config.dataset)
    else:
        urls = [url for path in config.paths for url in _expand(path)]
    files = _named(sorted(set(urls)))
    return take_fraction(_select_shards(files, config), config.fraction)


def take_fraction(files: Sequence[SourceFile], fraction: float) -> list[SourceFile]:
    """Return a share of `files`, evenly spaced and at least one."""
    n_kept = max(1, round(fraction * len(files)))
    return [files[number * len(files) // n_kept] for number in range(n_kept)]


def _list_hub(root: str) -> list[str]:
    """Return the files of a data set; what the Hub says of one that is not had is told."""
    try:
        filesystem, path = fsspec.url_to_fs(root)
        with suppress(FileNotFoundError):
            filesystem.info(path)  # where `isdir` says no for want of a network, this says why
        return _expand(root)
    except ValueError:
        raise
    except Exception as error:  # the hub's client raises its HTTP library's errors too
        said = " ".join(str(error).split())
        raise ValueError(
            f"{root} cannot be listed ({said}); it needs a network and, where it is gated, a "
            "login. Or download it and write source: files"
        ) from None


def check_protocol(written: str) -> None:
    """Raise ValueError where no installed package reads addresses such as this one."""
    protocol = written.partition("://")[0]
    try:
        fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{written} cannot be read here: {' '.join(str(error).split())}") from None


def _expand(written: str) -> list[str]:
    """Return the addresses of the readable files at a file, a folder (recursive) or a glob."""
    if "://" in written:
        check_protocol(written)
    filesystem, path = fsspec.url_to_fs(os.path.expandvars(os.path.expanduser(written)))
    if filesystem.isdir(path):
        found = _worth_reading(filesystem.find(path), written)
    elif filesystem.isfile(path):
        found = _readable([path])
        if not found:
            raise ValueError(
                f"{written} cannot be read: it is not {_READABLE}, or its name ends _old"
            )
    else:
        found = _readable(filesystem.glob(path)) if has_magic(path) else []
        if not found:
            raise ValueError(
                f"{written} matches no file to read (looked at {path}); "
                f"name a folder, a glob or files: {_READABLE}"
            )
    return [filesystem.unstrip_protocol(path) for path in found]


def _readable(paths: Sequence[str]) -> list[str]:
    """Return what can be read; never `…_old`, DCLM's name for a shard that another one replaced."""
    return [path for path in paths if _format(path) and not _stem(path).endswith("_old")]


def _worth_reading(paths: Sequence[str], folder: str) -> list[str]:
    """Return the data files of a folder: of one kind, as the rest describes them.

    Folders hold README.txt and dataset_info.json beside their data; a plain .json is read only
    where it is named.
    """
    candidates = [path for path in _readable(paths) if not path.endswith(".json")]
    for kind in _PREFERRED:
        chosen = [path for path in candidates if _format(path)[0] == kind]
        if chosen:
            logger.info(
                "%s: %d %s files, %d others", folder, len(chosen), kind, len(paths) - len(chosen)
            )
            return chosen
    others = ", ".join(PurePosixPath(path).name for path in paths[:3]) or "nothing"
    raise ValueError(f"{folder} holds no {_READABLE} file; found {others}")


def _format(path: str) -> tuple[Kind, str] | None:
    """Return kind and compression by the name's endings; None where it cannot be read."""
    name = PurePosixPath(path)
    if name.suffix == ".parquet":
        return "parquet", ""
    compression = _COMPRESSIONS.get(name.suffix, "")
    suffix = name.with_suffix("").suffix if compression else name.suffix
    if suffix not in _KINDS or not (suffix or compression):
        return None
    return _KINDS[suffix], compression


def _stem(path: str) -> str:
    """Return the name without the endings of its format."""
    name = PurePosixPath(path)
    while name.suffix in {*_COMPRESSIONS, *_KINDS, ".parquet"} - {""}:
        name = name.with_suffix("")
    return name.name


def _named(urls: Sequence[str]) -> list[SourceFile]:
    """Return files named below their common folder, so that results do not tell where that is."""
    parents = [url.rpartition("/")[0] for url in urls]
    common = os.path.commonprefix([f"{parent}/" for parent in parents]).rpartition("/")[0]
    files = [SourceFile(url, url[len(common) :].lstrip("/"), *_format(url)) for url in urls]
    return sorted(files, key=lambda file: file.name)


def _select_shards(files: Sequence[SourceFile], config: CorpusConfig) -> list[SourceFile]:
    """Return the files in the global and local shards that the configuration names."""
    wanted = ((_GLOBAL_SHARD, config.global_shards), (_LOCAL_SHARD, config.local_shards))
    chosen = [
        file
        for file in files
        if all(not shards or _number(pattern, file) in shards for pattern, shards in wanted)
    ]
    if not chosen:
        folders = sorted({str(PurePosixPath(file.url).parent) for file in files})
        raise ValueError(
            f"global_shards {list(config.global_shards)} and local_shards "
            f"{list(config.local_shards)} leave none of {len(files)} files; "
            f"found {', '.join(folders[:3])}{' …' if len(folders) > 3 else ''}"
        )
    return chosen


def _number(pattern: re.Pattern[str], file: SourceFile) -> int | None:
    match = pattern.search(file.url)
    return int(match[1]) if match else None
