"""Describe experts: by their domain, by their tokens, and by the features that call them.

Only what the tables support is said: a domain whose interval of shares lies above the expert's
share, and pairs of feature and expert that pass the false discovery rate. The columns list more
than the label names.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from deepseemoe.features.contexts import rank_in_run
from deepseemoe.labels.rules import quoted
from deepseemoe.labels.schemas import EXPERTS
from deepseemoe.runtime.files import read_json
from deepseemoe.runtime.tables import read_table, write_table

logger = logging.getLogger(__name__)

MAX_Q = 0.05
"""Pairs are kept below this Benjamini-Hochberg q, and only where they attract each other."""

N_LISTED = 8
"""Features and tokens of an expert that the columns list."""

N_NAMED = 3
"""Features and tokens that its label names."""

NAME_LENGTH = 48
"""Characters of a feature's label inside an expert's."""

_BY_EXPERT = [("layer", "ascending"), ("expert", "ascending")]

Expert = tuple[int, int]
"""Layer and expert."""


class Domain(NamedTuple):
    """The domain that an expert prefers most."""

    name: str
    lift: float
    is_sure: bool
    """Whether the interval of its share lies above the expert's share of all tokens"""


class Found(NamedTuple):
    """What the tables say of one expert."""

    domain: Domain | None
    tokens: list[str]
    called_by: list[int]
    writes: list[int]


def label_experts(
    *,
    reads: Path,
    summary: Path,
    feature_labels: Path,
    routing: Path,
    experts: Path,
    writes: Path | None = None,
    expert_domains: Sequence[str] = (),
) -> None:
    """Write a description of each expert of the layers that were mapped to `experts`.

    `summary` is that of the map: it names the layers, also where no pair could be tested.

    `routing` is the folder with load, domains and vocabulary; `writes`
    adds the features that the expert's output holds. `expert_domains` says what each expert was
    made for, where that is known. An expert without any finding is described as that.
    """
    pairs = read_table(reads, ["layer", "expert", "feature", "lor", "q", "rank"])
    layers = read_json(summary)["layers"]
    called_by = _grouped(pairs.filter(_is_kept()), [("rank", "ascending")], "feature")
    written = _written(writes) if writes else {}
    tokens, domains = _tokens(routing / "vocabulary.parquet"), _domains(routing / "domains.parquet")
    names = _names(feature_labels)
    load = read_table(routing / "load.parquet", ["layer", "expert", "share"])
    load = load.filter(pc.field("layer").isin(pa.array(layers, pa.int64()))).sort_by(_BY_EXPERT)
    rows = []
    for row in load.to_pylist():
        key = row["layer"], row["expert"]
        found = Found(
            domains.get(key), tokens.get(key, []), called_by.get(key, []), written.get(key, [])
        )
        made_for = expert_domains[row["expert"]] if expert_domains else None
        rows.append(row | _columns(found, names, made_for))
    n_called = sum(bool(row["features"]) for row in rows)
    logger.info("%d of %d experts are called by a feature", n_called, len(rows))
    write_table(experts, EXPERTS, rows, {"layers": layers, "max_q": MAX_Q})


def _columns(found: Found, names: Mapping[int, str], made_for: str | None) -> dict[str, Any]:
    told = f"made for {made_for} · " if made_for else ""
    return {
        "label": told + expert_label(found, names),
        "made_for": made_for,
        "top_domain": found.domain and found.domain.name,
        "domain_lift": found.domain and found.domain.lift,
        "features": found.called_by[:N_LISTED],
        "tokens": found.tokens[:N_LISTED],
    }


def expert_label(found: Found, names: Mapping[int, str]) -> str:
    """Return `code: “def”, “self” · called by F00012 token “import”` and the like."""
    domain = f"{found.domain.name}: " if found.domain and found.domain.is_sure else ""
    parts = [domain + quoted(found.tokens[:N_NAMED])]
    for what, features in (("called by", found.called_by), ("writes", found.writes)):
        if features:
            parts.append(f"{what} {', '.join(_named(features[:N_NAMED], names))}")
    said = [part.removesuffix(": ") for part in parts if part]
    return " · ".join(said) or "no preference found"


def _named(features: Sequence[int], names: Mapping[int, str]) -> list[str]:
    """Return each feature's number with the label, where it has one."""
    found = [(feature, names.get(feature, "")) for feature in features]
    return [f"F{feature:05d} {_shortened(name)}".strip() for feature, name in found]


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"


def _names(feature_labels: Path) -> dict[int, str]:
    """Return the label of each feature that has a clear one."""
    table = read_table(feature_labels, ["feature", "label", "kind"])
    rows = table.filter(~pc.field("kind").isin(["unclear", "failed"])).to_pylist()
    return {row["feature"]: row["label"] for row in rows}


def _is_kept() -> pc.Expression:
    return (pc.field("q") < MAX_Q) & (pc.field("lor") > 0)


def _written(writes: Path) -> dict[Expert, list[int]]:
    """Return the features that each expert's output holds, the largest contrast first."""
    table = read_table(writes, ["layer", "expert", "feature", "contrast", "contrast_lo"])
    return _grouped(
        table.filter(pc.field("contrast_lo") > 0), [("contrast", "descending")], "feature"
    )


def _tokens(vocabulary: Path) -> dict[Expert, list[str]]:
    """Return the tokens that choose each expert more than others do, the highest lift first."""
    table = read_table(vocabulary, ["layer", "expert", "token_id", "token", "n_tokens", "lift"])
    order = [("lift", "descending"), ("n_tokens", "descending"), ("token_id", "ascending")]
    return _grouped(table.filter(pc.field("lift") > 1), order, "token")


def _domains(path: Path) -> dict[Expert, Domain]:
    """Return the domain of highest lift of each expert."""
    table = read_table(path, ["layer", "expert", "domain", "share", "lift", "share_lo"])
    table = table.filter(pc.field("lift") > 0)  # leaves out domains without a lift, too
    best: dict[Expert, Domain] = {}
    for row in table.sort_by([("lift", "descending"), ("domain", "ascending")]).to_pylist():
        is_sure = row["lift"] > 1 and row["share_lo"] > row["share"] / row["lift"]
        domain = Domain(row["domain"], row["lift"], is_sure)
        best.setdefault((row["layer"], row["expert"]), domain)
    return best


def _grouped(
    table: pa.Table, order: Sequence[tuple[str, str]], column: str
) -> dict[Expert, list[Any]]:
    """Return a column of each expert's first rows by `order`."""
    table = table.sort_by([*_BY_EXPERT, *order]).select(["layer", "expert", column])
    rank = rank_in_run(table["layer"].to_numpy(), table["expert"].to_numpy())
    first = table.filter(pa.array(rank < N_LISTED))
    grouped: dict[Expert, list[Any]] = {}
    for layer, expert, value in zip(*first.to_pydict().values(), strict=True):
        grouped.setdefault((layer, expert), []).append(value)
    return grouped
