"""Example contexts of all features: seconds against reading alone, memory, and the usual way.

    python benchmarks/contexts.py [--json FILE] [--n-tokens 2000000] [--d-dict 65536] [--peer 1]

A shard of --n-tokens tokens with --l0 active features each, of --d-dict: a quarter of them hangs on
the token, so that there are near misses, the others fire at rates that fall as a power. The floor
reads and decodes every array of the shard once, and does nothing. Ours, in three cases: `peaks` is
the first pass alone, `contexts` both passes and all draws, `whole stage` also finds the nearest
features, of --d-model numbers, and writes the three tables.

The peer does what Delphi does: it holds the whole matrix in memory, turned so that features are
rows, and goes through them one by one; windows do not overlap, and top, quantile and random ones
are taken, with no near misses and no check that a feature is off. It is given peaks for nothing
more. --peer 0 leaves it out.

Peak memory is that of the whole stage in a process of its own, at --n-tokens and half of them.
"""

import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from safetensors.numpy import save_file
from timing import FLOOR, OURS, Case, compete, main
from tokenizers import Tokenizer, models

from deepseemoe.config import FeaturesConfig
from deepseemoe.features.contexts import width
from deepseemoe.features.examples import collect_examples, find_contexts
from deepseemoe.features.neighbours import nearest_features
from deepseemoe.features.store import FeatureShard, FeatureWriter
from deepseemoe.features.stream import FeatureStream
from deepseemoe.features.survey import survey
from deepseemoe.features.text import FeatureText
from deepseemoe.runtime.tables import Column, write_table

BLOCK = 131_072
SEGMENT = 512
N_TYPES = 50_000
CONFIG = FeaturesConfig()


class Files(NamedTuple):
    """What the stage reads."""

    folder: Path
    n_tokens: int
    d_dict: int

    @property
    def inputs(self) -> dict[str, object]:
        """The arguments of `collect_examples` that are read."""
        return {
            "shards": [self.folder / "shard.zarr"],
            "weights": self.folder / "weights.safetensors",
            "documents": self.folder / "documents.parquet",
            "tokenizer": self.folder,
        }


def made(folder: Path, *, n_tokens: int, d_dict: int, l0: int, d_model: int) -> Files:
    """Write a shard, and the files beside it; every block is the first one in another order."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    tokens = rng.zipf(1.2, BLOCK) % N_TYPES
    matrix = _block(rng, tokens, d_dict, l0)
    writer = FeatureWriter(folder / "shard.zarr", d_dict=d_dict, manifest={})
    for start in range(0, n_tokens, BLOCK):
        order = rng.permutation(BLOCK)[: n_tokens - start]
        places = start + np.arange(len(order))
        position = places % SEGMENT
        rows = matrix[order]
        writer.append(
            rows,
            {
                "token_id": tokens[order],
                "doc_id": places // SEGMENT,
                "position": position,
                "is_valid": np.ones(len(order), np.uint8),
            },
        )
    n_documents = n_tokens // SEGMENT + 1
    columns = (Column("doc_id", pa.uint32(), "", ""), Column("domain", pa.string(), "", ""))
    values = {"doc_id": range(n_documents), "domain": ["a"] * n_documents}
    write_table(folder / "documents.parquet", columns, values, {})
    vocabulary = {f" w{n}": n for n in range(N_TYPES)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=" w0"))
    words.save(str(folder / "tokenizer.json"))
    decoder = rng.standard_normal((d_dict, 1, d_model), np.float32)
    save_file({"decoder": decoder}, folder / "weights.safetensors")
    return Files(folder, n_tokens, d_dict)


def _block(rng: np.random.Generator, tokens: np.ndarray, d_dict: int, l0: int) -> sp.csr_array:
    """Return the activations of a block."""
    rate = 1 / np.arange(1, d_dict + 1) ** 0.7
    ids = np.searchsorted(np.cumsum(rate / rate.sum()), rng.random((BLOCK, l0)))
    own = l0 // 4
    ids[:, :own] = (tokens[:, None] * 7919 + np.arange(own) * 104_729) % d_dict
    ids = np.sort(ids.clip(max=d_dict - 1), axis=1)
    is_new = np.diff(ids, axis=1, prepend=-1) > 0
    indptr = np.concatenate([[0], np.cumsum(is_new.sum(1))])
    z = rng.lognormal(0, 0.5, int(indptr[-1])).astype(np.float32)
    return sp.csr_array((z, ids[is_new].astype(np.int32), indptr), (BLOCK, d_dict))


def reading(files: Files) -> float:
    """Read and decode all that is on disk: the floor."""
    stream = FeatureStream(files.inputs["shards"])
    shard = FeatureShard.open(files.inputs["shards"][0])
    tokens = sum(len(shard.read(name)) for name in ("token_id", "doc_id", "position", "is_valid"))
    return tokens + sum(len(run.features) for run in stream.runs())


def peaks(files: Files) -> int:
    """Ours: sums, top peaks and reservoirs."""
    found = survey(FeatureStream(files.inputs["shards"]), CONFIG, 0)
    return int(found.halves_FH["n_peaks"].sum())


def contexts(files: Files) -> int:
    """Ours: contexts with their activations, and those that are off."""
    stream = FeatureStream(files.inputs["shards"])
    nearest = nearest_features(files.inputs["weights"], d_dict=files.d_dict, seed=0)
    start = time.perf_counter()
    activity, _ = find_contexts(stream, nearest, CONFIG, 0)
    sum(len(part.ranks) for part in activity.contexts())
    return time.perf_counter() - start


def stage(files: Files) -> None:
    """Ours: the whole stage."""
    names = ("density", "neighbours", "examples")
    tables = {name: files.folder / f"{name}.parquet" for name in names}
    collect_examples(CONFIG, **files.inputs, **tables, seed=0)


def delphi(files: Files) -> int:
    """Everything in memory, feature by feature."""
    text = FeatureText.read(files.inputs["shards"])
    runs, size, rng = text.runs, width(CONFIG), np.random.default_rng(0)
    n_windows, kept = text.n_tokens // size, 0
    n_each = 2 * CONFIG.n_per_quantile
    for feature in range(text.d_dict):
        mine = slice(runs.starts[feature], runs.starts[feature + 1])
        windows, first = np.unique(runs.places[mine] // size, return_index=True)
        if not len(windows):
            continue
        highest = np.maximum.reduceat(runs.values[mine], first)
        order = np.argsort(-highest)
        parts = np.array_split(order[2 * CONFIG.n_top :], CONFIG.n_quantiles)
        drawn = [rng.choice(part, min(len(part), n_each), replace=False) for part in parts]
        chosen = np.concatenate([order[: 2 * CONFIG.n_top], *drawn])
        others = np.setdiff1d(rng.integers(0, n_windows, 2 * len(chosen)), windows)
        kept += len(_windows(text, np.concatenate([windows[chosen], others]), feature, size))
    return kept


def _windows(text: FeatureText, windows: np.ndarray, feature: int, size: int) -> np.ndarray:
    """Return (R, W) activations of a feature in some windows."""
    runs = text.runs
    mine = slice(runs.starts[feature], runs.starts[feature + 1])
    places = windows[:, None] * size + np.arange(size)
    found = np.searchsorted(runs.places[mine], places).clip(max=mine.stop - mine.start - 1)
    return np.where(runs.places[mine][found] == places, runs.values[mine][found], 0)


def peak_memory(files: Files) -> float:
    """Return the GiB that the whole stage holds at most, in a process of its own."""
    call = [sys.executable, __file__, "--stage-of", str(files.folder)]
    call += [str(files.n_tokens), str(files.d_dict)]
    return float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def cases(
    rounds: int, *, n_tokens: int, d_dict: int, l0: int, d_model: int, peer: int, folder: str
) -> list[Case]:
    """Time the three cases, and show the memory."""
    shape = {"d_dict": d_dict, "l0": l0, "d_model": d_model}
    with tempfile.TemporaryDirectory(dir=folder or None) as place:
        half = made(Path(place) / "half", n_tokens=n_tokens // 2, **shape)
        whole = made(Path(place) / "whole", n_tokens=n_tokens, **shape)
        calls = {"peaks": peaks, "contexts": contexts, FLOOR: reading, "whole stage": stage}
        if peer:
            calls["all in memory (Delphi)"] = delphi
        seconds = compete({who: partial(call, whole) for who, call in calls.items()}, rounds=rounds)
        show_memory(half, whole)
    mine = ("peaks", "contexts", "whole stage")
    others = {who: seconds[who] for who in calls if who not in mine}
    return [
        Case(name, {OURS: seconds[name]} | others, "Mtok/s", n_tokens / 1e6) for name in mine
    ]


def show_memory(half: Files, whole: Files) -> None:
    """Print peak memory at both sizes, and what it grows by."""
    gib = {files.n_tokens: peak_memory(files) for files in (half, whole)}
    grown = (gib[whole.n_tokens] - gib[half.n_tokens]) * 2**30
    a_token = grown / (whole.n_tokens - half.n_tokens)
    told = ", ".join(f"{n:,} tokens: {size:.2f} GiB" for n, size in gib.items())
    print(f"peak memory of the whole stage, {told}; {a_token:.0f} bytes a token")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stage-of"]:
        stage(Files(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    else:
        options = {"n_tokens": 2_000_000, "d_dict": 65_536, "l0": 64, "d_model": 256}
        main(cases, __doc__, rounds=3, **options, peer=1, folder="")
