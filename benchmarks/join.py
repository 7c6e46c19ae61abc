"""The join of features with routing: seconds against reading alone, and against data tools.

    python benchmarks/join.py [--json FILE] [--only counts] [--threads 1]

`counts`: on how many tokens a feature fires and an expert is chosen, with the sums of activations
and of gate weights over them, from a feature shard on disk. Ours is the map's own pass over blocks
of whole documents, which adds up to all eight sums of the map and their products over documents, in
two halves (`all sums`), or joint counts alone (`joint counts`). `a permutation` is one of DRAWS
permutations of documents that share a pass, as the null is made of, against as many sparse products
of scipy's in one pass, and against one count by DuckDB and Polars each. scipy
multiplies a sparse matrix by a dense table of experts in chunks of 16,384 tokens (two products more
for the two sums); DuckDB and Polars join two parquet files of (token, feature, activation) and
(token, expert, gate) and group by feature and expert. The floor reads and decodes the shard and the
routing and does nothing. All but DuckDB and Polars use --threads threads; these two are told the
same number.

`scaling`: ours over a decade of tokens and a decade of active features, and the exponent of the
fit, which is 1 where time is linear.

Peers that are not installed are left out and named.
"""

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
from timing import FLOOR, OURS, Case, compete, main

from deepseemoe.experts import kernels
from deepseemoe.experts.counts import count_halves
from deepseemoe.experts.documents import DocumentStream
from deepseemoe.experts.join import Join, Routing
from deepseemoe.experts.permutation import permuted_counts
from deepseemoe.features.store import FeatureShard, FeatureWriter

CHUNK = 16_384
DRAWS = 16


class Size(NamedTuple):
    """A feature shard and the routing of its tokens."""

    n_tokens: int
    d_dict: int
    n_active: int
    n_layers: int
    n_experts: int
    top_k: int


ONE_LAYER = Size(262_144, 16_384, 32, 1, 32, 4)
WINDOW = Size(131_072, 32_768, 32, 3, 32, 4)


class Files(NamedTuple):
    """One size on disk, for everyone."""

    size: Size
    shard: Path
    experts: Path
    weights: Path
    features: Path
    routing: Path


def made(folder: Path, size: Size) -> Files:
    """Write features and routing; features fire at rates that fall as a power, as learned ones."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rate = 1 / np.arange(1, size.d_dict + 1) ** 0.7
    edges = np.cumsum(rate / rate.sum())
    shape = size.n_tokens, size.n_active
    ids = np.sort(np.searchsorted(edges, rng.random(shape)).clip(max=size.d_dict - 1), axis=1)
    is_new = np.diff(ids, axis=1, prepend=-1) > 0
    indptr = np.concatenate([[0], np.cumsum(is_new.sum(1))])
    z = rng.lognormal(0, 0.5, int(indptr[-1])).astype(np.float32)
    matrix = sp.csr_array((z, ids[is_new].astype(np.int32), indptr), (size.n_tokens, size.d_dict))
    document = np.repeat(np.arange(size.n_tokens // 512), 512).astype(np.uint32)
    arrays = {name: np.ones(size.n_tokens, np.uint32) for name in ("token_id", "position")}
    arrays |= {"doc_id": document, "is_valid": np.ones(size.n_tokens, np.uint8)}
    writer = FeatureWriter(folder / "shard.zarr", d_dict=size.d_dict, manifest={})
    writer.append(matrix, arrays)
    scores = rng.random((size.n_tokens, size.n_layers, size.n_experts), np.float32)
    experts = np.argpartition(-scores, size.top_k, axis=2)[..., : size.top_k].astype(np.uint8)
    weights = rng.random(experts.shape, np.float32).astype(np.float16)
    np.save(folder / "experts.npy", experts)
    np.save(folder / "weights.npy", weights)
    token = np.repeat(np.arange(size.n_tokens, dtype=np.int32), np.diff(indptr))
    write(folder / "features.parquet", token=token, feature=matrix.indices, z=z)
    column = experts + np.arange(size.n_layers, dtype=np.int32)[:, None] * size.n_experts
    per_token = size.n_layers * size.top_k
    write(
        folder / "routing.parquet",
        token=np.repeat(np.arange(size.n_tokens, dtype=np.int32), per_token),
        expert=column.ravel(),
        gate=weights.ravel().astype(np.float32),
    )
    names = ("shard.zarr", "experts.npy", "weights.npy", "features.parquet", "routing.parquet")
    return Files(size, *(folder / name for name in names))


def write(path: Path, **columns: np.ndarray) -> None:
    """Write plain parquet, as a notebook would."""
    pq.write_table(pa.table(columns), path, compression="zstd")


def opened(files: Files) -> Join:
    """Return the join as the map makes it."""
    text = DocumentStream([partial(FeatureShard.open, files.shard)])
    experts, weights = np.load(files.experts), np.load(files.weights)
    return Join(text, Routing(experts, weights, files.size.n_experts))


def all_sums(files: Files) -> float:
    """Ours: every sum of the map."""
    joined = opened(files)
    return count_halves(joined, np.arange(files.size.d_dict)).whole.both.sum()


def joint_counts(files: Files) -> float:
    """Ours: counts alone, as each permutation needs them."""
    joined = opened(files)
    counts = np.zeros((files.size.d_dict, joined.routing.n_columns), np.int32)
    for block in joined.text.blocks(np.arange(files.size.d_dict)):
        firing = block.features_TF.tocsc()
        columns = joined.routing.columns(slice(block.start, block.stop))
        kernels.add_joint(firing.indptr, firing.indices, columns, counts)
    return counts.sum(dtype=np.int64)


def permutations(files: Files) -> float:
    """Ours: counts of DRAWS permutations from one pass."""
    joined = opened(files)
    features = np.arange(files.size.d_dict)
    return permuted_counts(joined, features, range(DRAWS), 0)[0].sum(dtype=np.int64)


def scipy_permutations(files: Files) -> float:
    """As many products, each with a routing of its own; the counts of one draw."""
    matrix = sp.csr_array(FeatureShard.open(files.shard).matrix())
    routing = Routing(np.load(files.experts), np.load(files.weights), files.size.n_experts)
    both = np.zeros((DRAWS, files.size.d_dict, routing.n_columns), np.float32)
    for start in range(0, files.size.n_tokens, CHUNK):
        z = matrix[start : start + CHUNK]
        fires_FT = sp.csr_array((np.ones_like(z.data), z.indices, z.indptr), z.shape).T
        for draw in range(DRAWS):
            rows = (np.arange(start, start + z.shape[0]) + 512 * draw) % files.size.n_tokens
            both[draw] += fires_FT @ routing.chosen(rows, np.float32)
    return both[0].sum(dtype=np.float64)


def reading(files: Files) -> float:
    """Read and decode all that is on disk: the floor."""
    shard = FeatureShard.open(files.shard)
    parts = shard.values, shard.features, shard.offsets, shard.doc_ids, shard.is_valid
    experts, weights = np.load(files.experts), np.load(files.weights)
    return sum(part.size for part in parts) + experts.size + weights.size


def scipy_products(files: Files) -> float:
    """Three sparse products a chunk: counts, activations and gates."""
    matrix = sp.csr_array(FeatureShard.open(files.shard).matrix())
    routing = Routing(np.load(files.experts), np.load(files.weights), files.size.n_experts)
    both, activation, gate = np.zeros((3, files.size.d_dict, routing.n_columns), np.float32)
    for start in range(0, files.size.n_tokens, CHUNK):
        rows = slice(start, start + CHUNK)
        z = matrix[rows]
        fires = sp.csr_array((np.ones_like(z.data), z.indices, z.indptr), z.shape)
        chosen = routing.chosen(rows, np.float32)
        gates = np.zeros_like(chosen)
        np.put_along_axis(gates, routing.columns(rows), routing.gates_of(rows), axis=1)
        both += fires.T @ chosen
        activation += z.T @ chosen
        gate += fires.T @ gates
    return both.sum()


def duckdb_join(files: Files, threads: int) -> float:
    """Join and group."""
    import duckdb

    with duckdb.connect(config={"threads": threads}) as connection:
        table = connection.sql(
            "select feature, expert, count(*) as n, sum(z) as z, sum(gate) as gate "
            f"from '{files.features}' join '{files.routing}' using (token) group by all"
        ).to_arrow_table()
    return table["n"].to_numpy().sum()


def polars_join(files: Files) -> float:
    """Join and group in a stream; threads are set before polars is imported."""
    import polars as pl

    features, routing = pl.scan_parquet(files.features), pl.scan_parquet(files.routing)
    sums = (pl.len().alias("n"), pl.sum("z"), pl.sum("gate"))
    joined = features.join(routing, on="token").group_by("feature", "expert").agg(*sums)
    return joined.collect(engine="streaming")["n"].sum()


def cases(rounds: int, *, only: str, threads: int, folder: str) -> list[Case]:
    """Time what was asked for."""
    os.environ["POLARS_MAX_THREADS"] = str(threads)
    kernels.limit_threads(threads)
    with tempfile.TemporaryDirectory(dir=folder or None) as place:
        found = []
        if only in ("", "counts"):
            for name, size in (("one layer", ONE_LAYER), ("window of 3", WINDOW)):
                found += compared(name, made(Path(place) / name, size), rounds, threads)
        if only in ("", "scaling"):
            show_scaling(Path(place))
    return found


def compared(name: str, files: Files, rounds: int, threads: int) -> list[Case]:
    """Time everyone on one size; all must count the same."""
    peers: dict[str, Callable[[], float]] = {"scipy": partial(scipy_products, files)}
    peers |= {"DuckDB": partial(duckdb_join, files, threads), "Polars": partial(polars_join, files)}
    for module, peer in (("duckdb", "DuckDB"), ("polars", "Polars")):
        if importlib.util.find_spec(module) is None:
            print(f"{peer} is left out: {module} is not installed")
            del peers[peer]
    mine = {"all sums": partial(all_sums, files), "joint counts": partial(joint_counts, files)}
    calls = mine | {FLOOR: partial(reading, files)} | peers
    totals = {who: call() for who, call in calls.items() if who != FLOOR}
    if len(set(totals.values())) > 1:
        raise ValueError(f"{name}: not all count the same: {totals}")
    seconds = compete(calls, rounds=rounds, warmup=0)
    others = {who: seconds[who] for who in calls if who not in mine}
    rate = files.size.n_tokens / 1e6
    draws = {OURS: partial(permutations, files), "scipy": partial(scipy_permutations, files)}
    many = compete(draws, rounds=rounds)
    one = {who: [total / DRAWS for total in found] for who, found in many.items()}
    one |= {who: others[who] for who in ("DuckDB", "Polars") if who in others}
    return [
        Case(f"{name}, {who}", {OURS: seconds[who]} | others, "Mtok/s", rate) for who in mine
    ] + [Case(f"{name}, a permutation", one, "Mtok/s", rate)]


def show_scaling(place: Path) -> None:
    """Print seconds over a decade of tokens and of active features, and the exponents."""
    base = Size(65_536, 16_384, 16, 1, 32, 4)
    grows = {
        "tokens": [base._replace(n_tokens=base.n_tokens * f) for f in (1, 2, 5, 10)],
        "active features": [base._replace(n_active=8 * f) for f in (1, 2, 5, 10)],
    }
    for what, sizes in grows.items():
        seconds = []
        for number, size in enumerate(sizes):
            files = made(place / f"{what}{number}", size)
            joined, features = opened(files), np.arange(size.d_dict)
            best = min(timed(partial(count_halves, joined, features)) for _ in range(4))
            seconds.append(best)
        xs = [size.n_tokens if what == "tokens" else size.n_active for size in sizes]
        exponent = np.polyfit(np.log(xs), np.log(seconds), 1)[0]
        told = ", ".join(f"{x:,}: {s:.2f} s" for x, s in zip(xs, seconds, strict=True))
        print(f"{what}: {told}; time grows with the power {exponent:.2f}")


def timed(call: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(cases, __doc__, rounds=3, only="", threads=1, folder="")
