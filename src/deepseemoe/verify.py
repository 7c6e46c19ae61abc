"""Whether the files of a run are those that its jobs wrote, those too that no stage reads again."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from deepseemoe.runtime import checksums
from deepseemoe.runtime.files import read_json


class Verdict(NamedTuple):
    """How many outputs were looked at, and a line for each that is damaged."""

    n_outputs: int
    problems: list[str]


def add_verify(commands: Any) -> argparse.ArgumentParser:
    """Add the parser of `deepseemoe verify` and return it."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "verify", help="read all files of a run and say which are not as they were written"
    )
    parser.add_argument("results", type=Path, help="folder of the run, as results/tiny")
    return parser


def run_verify(options: argparse.Namespace) -> tuple[str, int]:
    """Return a line for each damaged output and one about all, and the exit status: 1 if any is."""
    n_outputs, problems = verify(options.results)
    total = f"{options.results}: {n_outputs} outputs read, {len(problems)} damaged"
    return "\n".join([*problems, total]), min(len(problems), 1)


def verify(folder: Path) -> Verdict:
    """Read every output of the run in `folder` that a finished job left, chunks of arrays too.

    Outputs that are gone are passed over: some are temporary, and Snakemake makes the others anew.
    Raises ValueError where no run with checksums is there.
    """
    outputs = [path for path in checksums.outputs(folder) if path.exists()]
    if not outputs:
        raise ValueError(
            f"{folder}: no outputs with checksums here; name the folder of a run, as results/tiny"
        )
    problems = [problem for path in outputs for problem in _problems(folder, path)]
    return Verdict(len(outputs), problems)


def _problems(folder: Path, output: Path) -> Iterator[str]:
    """Yield at most one line: what else is wrong with an output that is made anew is no matter."""
    try:
        checksums.check(folder, [output])
        for store in _stores(output):
            kind = read_json(store / "zarr.json")["attributes"].get("kind")
            _READERS.get(kind, _read_activations)(store)
    except (ValueError, OSError) as error:
        told = str(error)
        yield told if "delete" in told else f"{told}; delete {output} and run again"


def _stores(output: Path) -> list[Path]:
    """Return the stores that an output is or holds, as that of a round does."""
    if (output / "zarr.json").is_file():
        return [output]
    return sorted(path.parent for path in output.glob("*.zarr/zarr.json"))


def _read_tokens(path: Path) -> None:
    from deepseemoe.corpus.shards import read_shard

    read_shard(path)


def _read_features(path: Path) -> None:
    from deepseemoe.features.store import ARRAYS, FeatureShard

    shard = FeatureShard.open(path)
    for name in ARRAYS:
        for start, stop in shard.ranges(name):
            shard.read(name, start, stop)


def _read_activations(path: Path) -> None:
    from deepseemoe.activations.store import ActivationStore

    store = ActivationStore(path)
    for name in store.names:
        array = store[name]
        for index in range(array.n_chunks):
            array.chunk(index)


_READERS: dict[str | None, Callable[[Path], None]] = {
    "corpus": _read_tokens,
    "features": _read_features,
}
