"""The map of reads: which features call which experts, with how far to believe it."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config import ExpertsConfig
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.experts.counts import Firings, count_firings
from deepseemoe.experts.join import join
from deepseemoe.experts.pairs import SURE, Evidence, is_tested, layer_rows, weigh
from deepseemoe.experts.schemas import READS
from deepseemoe.experts.weights import norm_scales, weight_map
from deepseemoe.features.store import FeatureShard
from deepseemoe.model.adapter import MoeModel
from deepseemoe.names import Window, layer_name
from deepseemoe.runtime.files import write_json
from deepseemoe.runtime.tables import digest, write_table

logger = logging.getLogger(__name__)


def map_reads(
    config: ExpertsConfig,
    *,
    model: MoeModel,
    dictionary: Path,
    feature_shards: Sequence[Path],
    stores: Sequence[Path],
    reads: Path,
    summary: Path,
    seed: int,
) -> None:
    """Write the map of reads of one dictionary, and a summary of what was tested.

    `stores` are the test split's activation stores that `feature_shards` were encoded from, in
    order. Raises ValueError where no router of the model reads what the dictionary writes, or where
    files do not belong together.
    """
    learned = Dictionary.load(dictionary)
    layers = router_layers(learned.kind, learned.window, model.moe_layers)
    opened = [ActivationStore(path) for path in stores]
    sources = [partial(FeatureShard.open, path) for path in feature_shards]
    joined = join(sources, opened, layers=layers, n_experts=model.n_experts)
    if joined.text.d_dict != learned.d_dict:
        raise ValueError(
            f"{feature_shards[0]}: {joined.text.d_dict} features, but {dictionary} has "
            f"{learned.d_dict}; encode the features with this dictionary (encode_features)"
        )
    firings = count_firings(joined.text)
    evidence = weigh(joined, config, firings, seed=seed)
    scales = norm_scales(model, opened[0], layers)
    w_maps = [
        weight_map(
            model,
            learned,
            layer,
            features=evidence.features_F,
            mean_activation_F=evidence.mean_activation_F,
            scale=scales[layer],
        )
        for layer in layers
    ]
    rows = read_rows(config, evidence, layers, w_maps)
    manifest = {
        "rule": "map_reads",
        "config": digest(config.model_dump(mode="json")),
        "seed": seed,
        "dictionary": {"kind": learned.kind, "window": str(learned.window)},
        "features": sources[0]().manifest,
    }
    write_table(reads, READS, rows, manifest)
    told = {
        "layers": list(layers),
        "n_tokens": joined.text.n_tokens,
        "n_documents": joined.text.documents.n_documents,
        **summarise(config, firings, evidence, rows, n_columns=joined.routing.n_columns),
    }
    write_json(summary, told)
    logger.info("%s: %d of %d tested pairs kept", reads, told["n_kept"], told["n_tested"])


def router_layers(kind: str, window: Window, moe_layers: Sequence[int]) -> tuple[int, ...]:
    """Return the layers whose routers a dictionary's features may call.

    A crosscoder of resid_post on layers a..b is read by the routers of a+1 .. b+1, a transcoder on
    a..b reads or writes beside the routers of a..b. Raises ValueError where none of them exists.
    """
    shift = 1 if kind == "crosscoder" else 0
    layers = tuple(n + shift for n in window.layers if n + shift in set(moe_layers))
    if not layers:
        wanted = Window(window.first + shift, window.last + shift)
        first, last = max(min(moe_layers) - shift, 0), max(moe_layers) - shift
        raise ValueError(
            f"{kind} on {window}: the routers of {wanted} read its features, but layers with "
            f"experts are {', '.join(map(layer_name, moe_layers))}; choose a window that meets "
            f"{layer_name(first)} to {layer_name(last)}"
        )
    return layers


def read_rows(
    config: ExpertsConfig, evidence: Evidence, layers: Sequence[int], w_maps: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the columns of the map: tested pairs by layer, expert and rank."""
    tested_FX, tables = is_tested(config, evidence), []
    for place, (layer, w_map_FE) in enumerate(zip(layers, w_maps, strict=True)):
        n_experts = w_map_FE.shape[1]
        columns = slice(place * n_experts, (place + 1) * n_experts)
        rows = layer_rows(evidence, w_map_FE, columns, tested_FX)
        tables.append(rows | {"layer": np.full(rows["expert"].size, layer)})
    return {c.name: np.concatenate([rows[c.name] for rows in tables]) for c in READS}


def summarise(
    config: ExpertsConfig,
    firings: Firings,
    evidence: Evidence,
    rows: dict[str, np.ndarray],
    *,
    n_columns: int,
) -> dict[str, Any]:
    """Return how many pairs were tested and kept, why others were not, and how the null behaves.

    `null` is a permutation treated as if it were the data, against the same null: the shares of its
    p values below .05 and .01 should be those numbers.
    """
    rare = firings.tokens_F < config.min_tokens
    narrow = ~rare & (firings.documents_F < config.min_documents)
    tested_FX = is_tested(config, evidence)
    is_kept, p = rows["q"] < SURE, evidence.p_held_out[tested_FX]
    return {
        "n_features": int(rare.size),
        "n_pairs": int(rare.size) * n_columns,
        "n_tested": int(tested_FX.sum()),
        "n_kept": int(is_kept.sum()),
        "n_called": int((is_kept & (rows["lor"] > 0)).sum()),
        "not_tested": {
            "feature_below_min_tokens": int(rare.sum()) * n_columns,
            "feature_below_min_documents": int(narrow.sum()) * n_columns,
            "pair_below_min_expected": int((~tested_FX).sum()),
        },
        "n_permutations": config.n_permutations,
        "null": {
            "share_p_below_.05": float((p < 0.05).mean()) if p.size else None,
            "share_p_below_.01": float((p < 0.01).mean()) if p.size else None,
        },
    }
