"""Tables of the routers' decisions on the test split: load, co-activation, vocabulary, domains.

Layers are worked through one after the other over all shards, whose arrays are mapped into memory,
so that memory holds the counts of one layer.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config import RoutingConfig
from deepseemoe.corpus.documents import domains_of
from deepseemoe.features.tokens import token_texts
from deepseemoe.names import Site
from deepseemoe.routing.schemas import COACTIVATION, DOMAINS, LOAD, VOCABULARY
from deepseemoe.routing.tables import (
    Rows,
    coactivation_rows,
    domain_rows,
    load_rows,
    vocabulary_rows,
)
from deepseemoe.routing.tally import ShardRows, Text, count_values, domain_tokens, read_rows, tally
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.tables import digest, write_table

logger = logging.getLogger(__name__)


def tabulate_routing(
    config: RoutingConfig,
    *,
    stores: Sequence[Path],
    documents: Path,
    tokenizer: Path,
    load: Path,
    coactivation: Path,
    vocabulary: Path,
    domains: Path,
    seed: int,
) -> None:
    """Write the four tables of the routing in some activation stores, over valid tokens.

    Raises ValueError where the stores hold no routing, or text that `documents` and `tokenizer` do
    not know.
    """
    opened = [ActivationStore(path) for path in stores]
    layers, n_experts = routing_layers(opened), count_experts(opened)
    text, shards = read_text(config, opened, documents, tokenizer, seed=seed)
    top_k = opened[0][str(Site("expert_ids", layers[0]))].shape[1]
    rows: dict[Path, list[Rows]] = {load: [], coactivation: [], vocabulary: [], domains: []}
    progress = Progress("tabulate_routing", len(layers), unit="layers")
    for layer in layers:
        counts = tally(shards, layer, text, n_experts=n_experts)
        rows[load].append(load_rows(layer, counts, text, top_k=top_k))
        rows[coactivation].append(coactivation_rows(layer, counts, text))
        rows[vocabulary].append(vocabulary_rows(layer, counts, text))
        rows[domains].append(domain_rows(layer, counts, text))
        progress.advance(1)
    manifest = {
        "rule": "tabulate_routing",
        "config": digest(config.model_dump(mode="json")),
        "seed": seed,
        "n_tokens": text.n_tokens,
        "stores": opened[0].manifest,
    }
    schemas = (LOAD, COACTIVATION, VOCABULARY, DOMAINS)
    for (path, parts), columns in zip(rows.items(), schemas, strict=True):
        values = {c.name: np.concatenate([part[c.name] for part in parts]) for c in columns}
        write_table(path, columns, values, manifest)
    logger.info(
        "routing of %d tokens in %d layers of %d experts", text.n_tokens, len(layers), n_experts
    )


def read_text(
    config: RoutingConfig,
    stores: Sequence[ActivationStore],
    documents: Path,
    tokenizer: Path,
    *,
    seed: int,
) -> tuple[Text, list[ShardRows]]:
    """Return the text of the stores, and the valid rows of each."""
    names, domain_of_doc = domains_of(documents)
    token_names = token_texts(tokenizer)
    _check_known(stores, "token_id", len(token_names), tokenizer)
    _check_known(stores, "doc_id", domain_of_doc.size, documents)
    occurrences = count_values(stores, "token_id", len(token_names))
    if not occurrences.any():
        raise ValueError("no valid token in the activation stores; give the test split more tokens")
    kept = np.flatnonzero(occurrences >= config.min_token_count)
    shards = [
        read_rows(
            store,
            kept_tokens=kept,
            n_types=len(token_names),
            domain_of_doc=domain_of_doc,
            n_draws=config.n_bootstrap,
            seed=seed,
        )
        for store in stores
    ]
    found = np.flatnonzero(count_values(stores, "doc_id", domain_of_doc.size))
    text = Text(
        int(occurrences.sum()),
        kept,
        occurrences[kept],
        token_names,
        names,
        domain_tokens(shards, len(names)),
        np.bincount(domain_of_doc[found], minlength=len(names)),
    )
    return text, shards


def routing_layers(stores: Sequence[ActivationStore]) -> tuple[int, ...]:
    """Return the layers whose routing the stores hold; raise ValueError where there is none."""
    if not stores:
        raise ValueError("no activation stores; cache those of the test split (cache_activations)")
    names = [name for name in stores[0].names if name.startswith("expert_ids/")]
    if not names:
        raise ValueError(
            f"{stores[0].path}: no expert_ids of any layer; found {', '.join(stores[0].names)}; "
            "cache the activations of a model with experts (cache_activations)"
        )
    return tuple(sorted(Site.parse(name).layer for name in names))


def count_experts(stores: Sequence[ActivationStore]) -> int:
    """Return the number of routed experts, also of those that no token chose.

    The workflow's stores name it in their manifest. Of another's, the highest expert that any token
    chose is taken for the last one.
    """
    named = {store.manifest.get("n_experts") for store in stores}
    if None not in named:
        return max(named)
    sites = [str(Site("expert_ids", layer)) for layer in routing_layers(stores)]
    return 1 + max(int(store[site].whole().max()) for store in stores for site in sites)


def _check_known(stores: Sequence[ActivationStore], name: str, n_known: int, source: Path) -> None:
    """Raise ValueError where a store has ids that `source` does not know."""
    highest = max(int(store[name].whole().max(initial=0)) for store in stores)
    if highest >= n_known:
        raise ValueError(
            f"{source}: knows {name} 0 to {n_known - 1}, but the activation stores have {highest}; "
            "give files of one run"
        )
