"""The map of writes: which experts write the features of a transcoder into the residual.

Reads ask which features make a router call an expert; writes ask what the expert does once called.
The answer needs each expert's own output, which no store holds, so the model is run again.

Axes: T valid tokens of a batch, S sequences, N sequence length, D d_model, F supported features,
E experts, K top_k.
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepseemoe.config import ExpertsConfig
from deepseemoe.corpus.shards import read_shard
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.experts.contributions import LayerContributions, contrast
from deepseemoe.experts.documents import DocumentStream
from deepseemoe.experts.schemas import WRITES
from deepseemoe.experts.support import count_firings, supported_features
from deepseemoe.experts.token_batches import Batch, batches
from deepseemoe.features.store import FeatureShard
from deepseemoe.model.adapter import MoeModel
from deepseemoe.names import Site
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.tables import digest, write_table

logger = logging.getLogger(__name__)


def map_writes(
    config: ExpertsConfig,
    *,
    model: MoeModel,
    dictionary: Path,
    feature_shards: Sequence[Path],
    tokens: Sequence[Path],
    writes: Path,
    seed: int,
) -> None:
    """Write the map of writes of one transcoder.

    `tokens` are the test split's shards of the corpus that `feature_shards` are of, in order. All
    is computed where the model is; `seed` is of the run and only told in the manifest. Raises
    ValueError for a crosscoder, which reads and writes one residual stream and no block, and where
    files do not belong together.
    """
    learned = Dictionary.load(dictionary)
    layers = writing_layers(learned, model.moe_layers)
    sources = [partial(FeatureShard.open, path) for path in feature_shards]
    corpus = [partial(read_shard, path) for path in tokens]
    text = DocumentStream(sources)
    firings = count_firings(text)
    features = supported_features(config, firings)
    sums = {
        layer: LayerContributions(
            unit_directions(learned, layer, features).to(model.device), model.n_experts
        )
        for layer in layers
    }
    progress = Progress("writes", text.n_tokens)
    for batch in batches(sources, corpus, features):
        add_batch(model, sums, batch)
        progress.advance(int(batch.is_valid_T.sum()))
    rows = [
        write_rows(
            config, layer, features, firings.tokens_F[features], sums[layer].finish(), text.n_tokens
        )
        for layer in layers
    ]
    manifest = {
        "rule": "map_writes",
        "config": digest(config.model_dump(mode="json")),
        "seed": seed,
        "dictionary": {"kind": learned.kind, "window": str(learned.window)},
        "features": sources[0]().manifest,
    }
    columns = {c.name: np.concatenate([part[c.name] for part in rows]) for c in WRITES}
    write_table(writes, WRITES, columns, manifest)
    logger.info("%s: %d pairs in layers %s", writes, columns["layer"].size, layers)


def writing_layers(dictionary: Dictionary, moe_layers: Sequence[int]) -> tuple[int, ...]:
    """Return the layers of a transcoder's window with experts; raise ValueError without one."""
    if dictionary.kind != "transcoder":
        raise ValueError(
            f"the map of writes is of transcoders, not of a {dictionary.kind}: only their features "
            "stand for what a block adds; give the folder of a transcoder"
        )
    layers = tuple(layer for layer in dictionary.window.layers if layer in moe_layers)
    if not layers:
        raise ValueError(
            f"no layer of {dictionary.window} has experts; layers with experts are "
            f"{tuple(moe_layers)}; choose a window that meets them"
        )
    return layers


def unit_directions(dictionary: Dictionary, layer: int, features: np.ndarray) -> Tensor:
    """Return what features add at a layer as unit vectors (F, D); 0 where they add nothing."""
    rows_FD = torch.as_tensor(dictionary.decoder_FLD)[features, layer - dictionary.window.first]
    norm_F = torch.linalg.vector_norm(rows_FD.float(), dim=1, keepdim=True)
    return rows_FD.float() / norm_F.clamp_min(torch.finfo(torch.float32).tiny)


@torch.inference_mode()
def add_batch(model: MoeModel, sums: dict[int, LayerContributions], batch: Batch) -> None:
    """Run the model on a batch and add what its experts wrote to the sums of each layer."""
    names = ("moe_in", "expert_ids", "expert_weights")
    sites = [str(Site(name, layer)) for layer in sums for name in names]
    with model.record(sites, stop=True) as acts:
        model.hidden_states(batch.tokens)
    rows = np.flatnonzero(batch.is_valid_T)
    for layer, contributions in sums.items():
        index = torch.from_numpy(rows).to(model.device)
        x_TD, ids_TK, weights_TK = (
            acts[str(Site(name, layer))].to(model.device)[index] for name in names
        )
        outputs_TKD = model.expert_outputs(layer, x_TD, ids_TK, weights_TK).float()
        contributions.add(
            batch.document_T[rows],
            batch.features_TF[rows],
            outputs_TKD,
            ids_TK.cpu().numpy(),
        )


def write_rows(
    config: ExpertsConfig,
    layer: int,
    features: np.ndarray,
    n_feature: np.ndarray,
    sums: LayerContributions,
    n_tokens: int,
) -> dict[str, np.ndarray]:
    """Return the columns of one layer: pairs with support, surest first within each expert.

    Support is that of the map of reads (`min_expected` joint tokens by chance), as many tokens on
    and as many off. Features that write nothing at the layer are left out.
    """
    found = contrast(sums, config.confidence)
    expected = n_feature[:, None] * found.n_expert_E / n_tokens
    n_off = found.n_expert_E - found.n_both
    least = np.minimum(np.minimum(expected, found.n_both), n_off)
    has_support = (least >= config.min_expected) & sums.directions_FD.any(1, keepdims=True)
    place, expert = np.nonzero(has_support)
    order = np.lexsort((-found.low[place, expert], expert))
    place, expert = place[order], expert[order]
    return {
        "layer": np.full(place.size, layer),
        "expert": expert,
        "feature": features[place],
        "n_both": found.n_both[place, expert],
        "mean_on": found.mean_on[place, expert],
        "mean_off": found.mean_off[place, expert],
        "contrast": (found.mean_on - found.mean_off)[place, expert],
        "contrast_lo": found.low[place, expert],
        "contrast_hi": found.high[place, expert],
        "share": found.share[place, expert],
    }
