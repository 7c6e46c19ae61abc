"""Tables of the routers' decisions on the test split: load, co-activation, vocabulary, domains.

Layers are worked through one after the other over all shards, whose arrays are mapped into memory,
so that memory holds the counts of one layer.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config import RoutingConfig
from deepseemoe.routing import schemas
from deepseemoe.routing.tables import (
    Rows,
    coactivation_rows,
    domain_rows,
    load_layer_rows,
    load_rows,
    vocabulary_layer_rows,
    vocabulary_rows,
)
from deepseemoe.routing.tally import tally, tally_tokens
from deepseemoe.routing.text import Routing, Text, read_text
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.tables import Columns, digest, write_table

logger = logging.getLogger(__name__)

TABLES: Mapping[str, Columns] = {
    "load": schemas.LOAD,
    "load_layers": schemas.LOAD_LAYERS,
    "coactivation": schemas.COACTIVATION,
    "vocabulary": schemas.VOCABULARY,
    "vocabulary_next": schemas.VOCABULARY_NEXT,
    "vocabulary_layers": schemas.VOCABULARY_LAYERS,
    "domains": schemas.DOMAINS,
}


def tabulate_routing(
    config: RoutingConfig,
    *,
    stores: Sequence[Path],
    documents: Path,
    tokenizer: Path,
    tables: Mapping[str, Path],
    seed: int,
) -> None:
    """Write the tables of the routing in some activation stores, over valid tokens.

    `tables` says where each of TABLES goes. Raises ValueError where the stores hold no routing, or
    text that `documents` and `tokenizer` do not know.
    """
    routing = Routing([ActivationStore(path) for path in stores])
    text = read_text(config, routing.stores, documents, tokenizer, seed=seed)
    parts: dict[str, list[Rows]] = {name: [] for name in TABLES}
    progress = Progress("tabulate_routing", len(routing.layers), unit="layers")
    for layer in routing.layers:
        for name, rows in _layer_rows(routing, text, layer, seed):
            parts[name].append(rows)
        progress.advance(1)
    manifest = manifest_of("tabulate_routing", config, routing, text, seed)
    for name, columns in TABLES.items():
        write_rows(tables[name], columns, parts[name], manifest)
    logger.info("routing of %d tokens in %d layers of %d experts",
                text.n_tokens, len(routing.layers), routing.n_experts)  # fmt: skip


def _layer_rows(routing: Routing, text: Text, layer: int, seed: int) -> Sequence[tuple[str, Rows]]:
    """Return the rows of one layer, each with the name of their table."""
    n_experts, top_k = routing.n_experts, routing.top_k
    counts = tally(text, layer, n_experts=n_experts)
    chosen_E = counts.counts_DE.sum(0)
    found = [
        ("load", load_rows(layer, counts, text, top_k=top_k)),
        ("load_layers", load_layer_rows(layer, counts, text, top_k=top_k)),
        ("coactivation", coactivation_rows(layer, counts, text, seed=seed)),
        ("domains", domain_rows(layer, counts, text)),
    ]
    sides = {
        "input": ("vocabulary", text.read, [rows.token_T for rows in text.shards]),
        "next": ("vocabulary_next", text.following, [rows.next_T for rows in text.shards]),
    }
    for side, (name, types, tokens) in sides.items():
        of_tokens = tally_tokens(text, types, tokens, layer, n_experts=n_experts, seed=seed)
        rows = vocabulary_rows(layer, of_tokens.counts_VE, types, text, chosen_E)
        layer_rows = vocabulary_layer_rows(layer, side, of_tokens, types, top_k=top_k)
        found += [(name, rows), ("vocabulary_layers", layer_rows)]
    return found


def manifest_of(
    rule: str, config: RoutingConfig, routing: Routing, text: Text, seed: int
) -> dict[str, Any]:
    """Return what the tables of a rule are made of."""
    return {
        "rule": rule,
        "config": digest(config.model_dump(mode="json")),
        "seed": seed,
        "n_tokens": text.n_tokens,
        "stores": routing.stores[0].manifest,
    }


def write_rows(
    path: Path, columns: Columns, parts: Sequence[Rows], manifest: Mapping[str, Any]
) -> None:
    """Write a table from the rows of its layers; without any it has none."""
    empty = {c.name: np.zeros(0, object) for c in columns}
    values = {c.name: np.concatenate([part[c.name] for part in parts or [empty]]) for c in columns}
    write_table(path, columns, values, manifest)
