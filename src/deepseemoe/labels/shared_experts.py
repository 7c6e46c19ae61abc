"""Describe the shared experts of each layer by where their output is large, and what it holds.

They see every token, so nothing calls them. Told is what lies surely above their mean part of the
block's output; the bars are those of routed experts' domains and tokens.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from deepseemoe.corpus.documents import domains_of
from deepseemoe.experts.statistics import clustered_interval
from deepseemoe.labels.expert_labels import LABELLER, N_NAMED, features_in_words
from deepseemoe.labels.expert_scores import CONFIDENCE
from deepseemoe.labels.expert_tables import N_BEST, SURE_WIDTHS, SURE_Z, Domain
from deepseemoe.labels.rules import quoted
from deepseemoe.runtime.tables import read_manifest, read_table

NO_FEATURES = (
    "writes: no feature's direction at this layer is surely written, or the window ends before it "
    "(windows)"
)

MIN_TOKENS = 20
"""Occurrences of a token type that is told."""


class Shared(NamedTuple):
    """What is known of the shared experts of a layer."""

    layer: int
    part: float
    """Mean share of the block's output that is theirs, by norms"""
    domain: Domain | None
    domain_part: float | None
    tokens: Sequence[int]
    writes: Sequence[int]


def describe_shared(
    shared: Path, *, documents: Path, vocabulary: Sequence[str], names: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Return a row of experts.parquet for the shared experts of each layer in `shared`."""
    n_shared = read_manifest(shared).get("n_shared_experts", 1)
    table = read_table(shared)
    layers = sorted(set(table["layer"].to_pylist()))
    found = [_find(layer, table.filter(pc.field("layer") == layer), documents) for layer in layers]
    return [_row(one, n_shared, vocabulary, names) for one in found]


def _find(layer: int, table: Any, documents: Path) -> Shared:
    names, domain_of = domains_of(documents)
    kinds = {
        kind: {
            name: column.to_numpy(zero_copy_only=False)
            for name, column in zip(rows.column_names, rows.columns, strict=True)
        }
        for kind in ("document", "token", "feature")
        for rows in [table.filter(pc.field("kind") == kind)]
    }
    of_document, of_token, of_feature = kinds.values()
    n_tokens = of_document["n_tokens"]
    part = float((of_document["value"] * n_tokens).sum() / n_tokens.sum())
    domain, domain_part = _domain(of_document, np.asarray(domain_of), names, part)
    least = of_token["value"] - SURE_Z / 1.96 * (of_token["value"] - of_token["lo"])
    is_sure = (least > part) & (of_token["n_tokens"] >= MIN_TOKENS)
    tokens = of_token["item"][is_sure][np.argsort(-of_token["value"][is_sure], kind="stable")]
    is_sure = of_feature["lo"] > 0
    by_contrast = np.argsort(-of_feature["value"][is_sure], kind="stable")
    writes = of_feature["item"][is_sure][by_contrast]
    return Shared(
        layer, part, domain, domain_part, tokens[:N_BEST].tolist(), writes[:N_BEST].tolist()
    )


def _domain(
    rows: Mapping[str, np.ndarray], domain_of: np.ndarray, names: Sequence[str], part: float
) -> tuple[Domain | None, float | None]:
    """Return the domain with the highest part, and that part."""
    domains = domain_of[rows["item"]]
    best: tuple[float, Domain] | None = None
    for place, name in enumerate(names):
        mine = domains == place
        n_D, sum_D = rows["n_tokens"][mine], (rows["value"] * rows["n_tokens"])[mine]
        if not n_D.sum():
            continue
        mean = sum_D.sum() / n_D.sum()
        squares = ((sum_D - mean * n_D) ** 2).sum() / n_D.sum() ** 2
        n_effective = n_D.sum() ** 2 / (n_D**2).sum()
        lo, _ = clustered_interval(
            np.asarray(mean), np.asarray(squares), np.asarray(n_effective), CONFIDENCE
        )
        is_sure = bool(mean - SURE_WIDTHS * (mean - lo) > part)
        if best is None or mean > best[0]:
            best = float(mean), Domain(name, float(mean / part), is_sure)
    return (best[1], best[0]) if best else (None, None)


def _row(
    found: Shared, n_shared: int, vocabulary: Sequence[str], names: Mapping[int, str]
) -> dict[str, Any]:
    tokens = [vocabulary[token] for token in found.tokens]
    who = "shared expert" if n_shared == 1 else f"{n_shared} shared experts"
    parts = [f"{who}: every token, {found.part:.0%} of the block's output"]
    if found.domain and found.domain.is_sure:
        parts.append(f"most in {found.domain.name} ({found.domain_part:.0%})")
    if tokens:
        parts.append(f"largest at {quoted(tokens[:N_NAMED])}")
    if found.writes:
        parts.append(features_in_words("writes", found.writes, names))
    return {
        "layer": found.layer,
        "expert": 0,
        "is_shared": True,
        "label": " · ".join(parts),
        "kind": "shared",
        "status": "labelled",
        "reason": "" if found.writes else NO_FEATURES,
        "detail": json.dumps({"part_of_output": found.part, "n_shared_experts": n_shared}),
        "made_for": None,
        "share": 1.0,
        "top_domain": found.domain and found.domain.name,
        "domain_lift": found.domain and found.domain.lift,
        "features": found.writes,
        "tier": "",
        "tokens": tokens,
        "labeller": LABELLER,
    }
