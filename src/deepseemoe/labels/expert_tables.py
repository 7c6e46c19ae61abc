"""What the tables of a run say of each routed expert, and what of it is sure enough to be told.

The columns of experts.parquet list more than labels name: a label says a domain or a token only
where chance over all domains and tokens of all experts would hardly do as much.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepseemoe.features.contexts import rank_in_run
from deepseemoe.runtime.tables import read_table

MAX_Q = 0.05
"""Pairs are kept below this Benjamini-Hochberg q, and only where they attract each other."""

TIERS = ("A", "B", "C")
"""Of an expert's features only those of its best tier are taken."""

N_BEST = 20
"""Features of an expert, the first of its tier, that are counted, clustered and run."""

SURE_WIDTHS = 2.0
"""Half widths of its 95 % interval by which a domain must lie above the expert's share: the best
of many domains of many experts is looked at, and at one of them chance would often do it."""

SURE_Z = 5.0
"""The same of a token, of which there are thousands: standard errors of a share (Wilson 1927)."""

_BY_EXPERT = [("layer", "ascending"), ("expert", "ascending")]

Expert = tuple[int, int]
"""Layer and expert."""


class Domain(NamedTuple):
    """The domain that an expert prefers most."""

    name: str
    lift: float
    is_sure: bool


class Token(NamedTuple):
    """A token that chooses an expert more often than others do."""

    text: str
    is_sure: bool


class Found(NamedTuple):
    """What the tables say of one expert; its load first."""

    layer: int
    expert: int
    share: float
    domain: Domain | None = None
    tokens: Sequence[Token] = ()
    called_by: Sequence[int] = ()
    tier: str = ""
    writes: Sequence[int] = ()


def read_found(
    routing: Path, *, reads: Path, layers: Sequence[int], writes: Path | None = None
) -> list[Found]:
    """Return what is said of each expert of `layers`, in order.

    `routing` is the folder with load, domains and vocabulary.
    """
    load = read_table(routing / "load.parquet", ["layer", "expert", "share"])
    load = load.filter(pc.field("layer").isin(pa.array(layers, pa.int64()))).sort_by(_BY_EXPERT)
    shares = {(row["layer"], row["expert"]): row["share"] for row in load.to_pylist()}
    tokens = _tokens(routing / "vocabulary.parquet", shares)
    domains = _domains(routing / "domains.parquet")
    called_by, written = _called_by(reads), _written(writes) if writes else {}
    return [
        Found(
            *key,
            share,
            domain=domains.get(key),
            tokens=tokens.get(key, []),
            called_by=[feature for feature, _ in called_by.get(key, [])],
            tier=called_by.get(key, [(0, "")])[0][1],
            writes=written.get(key, []),
        )
        for key, share in shares.items()
    ]


def read_tested(reads: Path) -> np.ndarray:
    """Return the features that the map has tested."""
    return np.unique(read_table(reads, ["feature"])["feature"].to_numpy()).astype(np.int64)


def read_names(feature_labels: Path) -> dict[int, str]:
    """Return the label of each feature that has a clear one."""
    table = read_table(feature_labels, ["feature", "label", "kind"])
    rows = table.filter(~pc.field("kind").isin(["unclear", "failed"])).to_pylist()
    return {row["feature"]: row["label"] for row in rows if row["label"]}


def _called_by(reads: Path) -> dict[Expert, list[tuple[int, str]]]:
    """Return the features that call each expert with their tier: those of its best tier."""
    pairs = read_table(reads, ["layer", "expert", "feature", "lor", "q", "rank", "tier"])
    is_kept = (pc.field("q") < MAX_Q) & (pc.field("lor") > 0) & pc.field("tier").isin(TIERS)
    order = [*_BY_EXPERT, ("tier", "ascending"), ("rank", "ascending")]
    found: dict[Expert, list[tuple[int, str]]] = {}
    for row in pairs.filter(is_kept).sort_by(order).to_pylist():
        mine = found.setdefault((row["layer"], row["expert"]), [])
        if len(mine) < N_BEST and (not mine or mine[0][1] == row["tier"]):
            mine.append((row["feature"], row["tier"]))
    return found


def _written(writes: Path) -> dict[Expert, list[int]]:
    """Return the features that each expert's output holds, the largest contrast first."""
    table = read_table(writes, ["layer", "expert", "feature", "contrast", "contrast_lo"])
    order = [*_BY_EXPERT, ("contrast", "descending"), ("feature", "ascending")]
    rows = _first(table.filter(pc.field("contrast_lo") > 0).sort_by(order)).to_pylist()
    return _grouped(rows, lambda row: row["feature"])


def _tokens(vocabulary: Path, shares: Mapping[Expert, float]) -> dict[Expert, list[Token]]:
    """Return the tokens that choose each expert more than others do, the highest lift first."""
    columns = ["layer", "expert", "token_id", "token", "n_tokens", "lift", "p_expert_given_token"]
    table = read_table(vocabulary, columns)
    order = [*_BY_EXPERT, ("lift", "descending"), ("n_tokens", "descending")]
    table = table.filter(pc.field("lift") > 1).sort_by([*order, ("token_id", "ascending")])

    def token(row: Mapping[str, Any]) -> Token:
        least = share_at_least(row["p_expert_given_token"], row["n_tokens"])
        return Token(row["token"], least > shares.get((row["layer"], row["expert"]), 1.0))

    return _grouped(_first(table).to_pylist(), token)


def share_at_least(share: float, n: int) -> float:
    """Return the lower bound of a share of n, SURE_Z standard errors down (Wilson 1927)."""
    middle = share + SURE_Z**2 / (2 * n)
    half = SURE_Z * math.sqrt(share * (1 - share) / n + SURE_Z**2 / (4 * n**2))
    return (middle - half) / (1 + SURE_Z**2 / n)


def _domains(path: Path) -> dict[Expert, Domain]:
    """Return the domain of highest lift of each expert."""
    table = read_table(path, ["layer", "expert", "domain", "share", "lift", "share_lo"])
    table = table.filter(pc.field("lift") > 0)  # leaves out domains without a lift, too
    best: dict[Expert, Domain] = {}
    for row in table.sort_by([("lift", "descending"), ("domain", "ascending")]).to_pylist():
        least = row["share"] - SURE_WIDTHS * (row["share"] - row["share_lo"])
        is_sure = row["lift"] > 1 and least > row["share"] / row["lift"]
        domain = Domain(row["domain"], row["lift"], is_sure)
        best.setdefault((row["layer"], row["expert"]), domain)
    return best


def _first(table: pa.Table) -> pa.Table:
    """Return the first rows of each expert of a sorted table."""
    rank = rank_in_run(table["layer"].to_numpy(), table["expert"].to_numpy())
    return table.filter(pa.array(rank < N_BEST))


def _grouped(rows: Sequence[Mapping[str, Any]], value: Any) -> dict[Expert, list[Any]]:
    grouped: dict[Expert, list[Any]] = {}
    for row in rows:
        grouped.setdefault((row["layer"], row["expert"]), []).append(value(row))
    return grouped
