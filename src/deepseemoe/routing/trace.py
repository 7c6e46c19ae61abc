"""Tables of the paths that tokens take through the experts of consecutive layers.

The ids of two layers are held at once for pairs, of three for paths.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config import RoutingConfig
from deepseemoe.routing.bootstrap import N_GROUPS
from deepseemoe.routing.counts import count_pairs, count_triples
from deepseemoe.routing.paths import (
    CrossLayer,
    TopPaths,
    cross_layer_of,
    shifted_pairs,
    top_paths_of,
)
from deepseemoe.routing.schemas import PATHS, PATHS_LAYERS, PATHS_TOP
from deepseemoe.routing.tables import Rows
from deepseemoe.routing.tabulate import manifest_of, write_rows
from deepseemoe.routing.text import Routing, Text, read_text
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.tables import Columns

TABLES: Mapping[str, Columns] = {
    "paths": PATHS,
    "paths_layers": PATHS_LAYERS,
    "paths_top": PATHS_TOP,
}

Shards = list[np.ndarray]
"""The ids (T, K) of one layer in each shard, tokens in text order."""


def trace_paths(
    config: RoutingConfig,
    *,
    stores: Sequence[Path],
    documents: Path,
    tokenizer: Path,
    tables: Mapping[str, Path],
    seed: int,
) -> None:
    """Write the tables of paths over the valid tokens of some activation stores.

    `tables` says where each of TABLES goes. Raises ValueError as `tabulate_routing` does.
    """
    routing = Routing([ActivationStore(path) for path in stores])
    text = read_text(config, routing.stores, documents, tokenizer, seed=seed)
    parts: dict[str, list[Rows]] = {name: [] for name in TABLES}
    progress = Progress("trace_paths", len(routing.layers), unit="layers")
    held: list[tuple[int, Shards]] = []
    for layer in routing.layers:
        held = [*held[-2:], (layer, [rows.read("expert_ids", layer) for rows in text.shards])]
        if len(held) > 1:
            found = _cross(config, held[-2][1], held[-1][1], text, routing, seed)
            layers = held[-2][0], layer
            parts["paths"].append(path_rows(*layers, found))
            parts["paths_layers"].append(path_layer_rows(*layers, found, text))
        if len(held) > 2:
            found = _top(config, [ids for _, ids in held], text, routing)
            parts["paths_top"].append(path_top_rows([number for number, _ in held], found))
        progress.advance(1)
    manifest = manifest_of("trace_paths", config, routing, text, seed)
    for name, columns in TABLES.items():
        write_rows(tables[name], columns, parts[name], manifest)


def path_rows(layer: int, later: int, found: CrossLayer) -> Rows:
    """Return all pairs of experts that tokens chose at the two layers."""
    a, b = np.nonzero(~np.isnan(found.lift_EE))
    return {
        "layer": np.full(a.size, layer),
        "later_layer": np.full(a.size, later),
        "expert": a,
        "later_expert": b,
        "n_tokens": found.n_tokens_EE[a, b],
        "p_later_given_first": found.p_later_given_first_EE[a, b],
        "lift": found.lift_EE[a, b],
        "lift_lo": found.lift_lo_EE[a, b],
        "lift_hi": found.lift_hi_EE[a, b],
    }


def path_layer_rows(layer: int, later: int, found: CrossLayer, text: Text) -> Rows:
    """Return what two layers share in bits."""
    bits = found.information
    rows = {
        "layer": layer, "later_layer": later, "n_tokens": text.n_tokens,
        "bits": bits.raw, "chance_bits": bits.null, "bits_above_chance": bits.value,
        "bits_above_chance_lo": bits.low, "bits_above_chance_hi": bits.high, "p": bits.p,
        "reason": "" if text.tokens_D.size > 1 else "one document alone has no interval",
    }  # fmt: skip
    return {name: np.array([value]) for name, value in rows.items()}


def path_top_rows(layers: Sequence[int], found: TopPaths) -> Rows:
    """Return the paths over three layers that most tokens take."""
    n_paths = len(found.n_tokens_X)
    rows = {"rank": np.arange(1, n_paths + 1)}
    for place, layer in enumerate(layers):
        rows |= {
            f"layer_{place + 1}": np.full(n_paths, layer),
            f"expert_{place + 1}": found.experts_X3[:, place],
        }
    return rows | {
        "n_tokens": found.n_tokens_X,
        "share": found.share_X,
        "lift": found.lift_X,
        "markov_lift": found.markov_lift_X,
    }


def _cross(
    config: RoutingConfig, first: Shards, later: Shards, text: Text, routing: Routing, seed: int
) -> CrossLayer:
    """Return the measures of two layers over all shards."""
    n_experts = routing.n_experts
    pairs_GEE = sum(
        count_pairs(ids, later_ids, n_experts,
                    group_T=text.group_D[rows.document_T], n_groups=N_GROUPS)
        for ids, later_ids, rows in zip(first, later, text.shards, strict=True)
    )  # fmt: skip
    nulls_PEE = shifted_pairs(first, later, n_experts, n_shifts=config.n_shifts, seed=seed)
    top_ks = first[0].shape[1], later[0].shape[1]
    return cross_layer_of(pairs_GEE, text.tokens_G, nulls_PEE, top_ks=top_ks, seed=seed)


def _top(config: RoutingConfig, held: list[Shards], text: Text, routing: Routing) -> TopPaths:
    """Return the most frequent paths over three layers."""
    n_experts = routing.n_experts
    shards = list(zip(*held, strict=True))
    return top_paths_of(
        sum(count_triples(*three, n_experts) for three in shards),
        *(sum(count_pairs(one[n], one[n + 1], n_experts)[0] for one in shards) for n in (0, 1)),
        [sum(np.bincount(ids.ravel(), minlength=n_experts) for ids in layer) for layer in held],
        n_tokens=text.n_tokens,
        n_paths=config.n_paths,
    )
