"""What the model says of features and routers: effects of taking features out, and weights.

Local effects of all supported features come first, in passes over the test split that each take as
many router layers as have room, and wait on disk; then the features with the largest are taken out
of the running model (`effects_full`); then the table is written, layer by layer. So memory holds
the sums of a few layers and one batch, whatever the number of features and layers.

Axes: T tokens of a batch, S sequences, N sequence length, F supported features, D d_model,
E experts, R rows of the table.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepseemoe.config import ExpertsConfig
from deepseemoe.corpus.shards import read_shard
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.experts.belonging import check_features
from deepseemoe.experts.documents import DocumentStream, ShardSource
from deepseemoe.experts.effect_rows import effect_rows
from deepseemoe.experts.effect_sums import Effects, EffectSums
from deepseemoe.experts.effects_full import measure_full
from deepseemoe.experts.effects_local import Firings, Sampler, local_changes
from deepseemoe.experts.reads import router_layers
from deepseemoe.experts.schemas import EFFECTS
from deepseemoe.experts.support import count_firings, supported_features
from deepseemoe.experts.token_batches import Batch, batches
from deepseemoe.experts.weights import norm_scales, weight_map, written_before
from deepseemoe.features.store import FeatureShard
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.names import Site
from deepseemoe.runtime.files import remove
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.tables import TableWriter, digest

logger = logging.getLogger(__name__)

SUMS_BYTES = 4 << 30
"""Sums and directions of the layers that one pass measures; a pass has one layer at least."""


class Text(NamedTuple):
    """The test split: features and tokens, shard by shard, and which features are measured."""

    sources: Sequence[ShardSource]
    corpus: Sequence[ShardSource]
    n_tokens: int
    features: np.ndarray
    n_firings_F: np.ndarray


def measure_effects(
    config: ExpertsConfig,
    *,
    model: MoeModel,
    dictionary: Path,
    feature_shards: Sequence[Path],
    tokens: Sequence[Path],
    effects: Path,
    seed: int,
) -> None:
    """Write the effects of one dictionary's supported features on the routers that read them.

    `tokens` are the test split's shards of the corpus that `feature_shards` are of, in order. All
    is computed where the model is; `seed` decides which firing tokens are drawn. Raises ValueError
    where no router of the model reads what the dictionary writes, or where files do not belong
    together.
    """
    learned = Dictionary.load(dictionary)
    layers = router_layers(learned.kind, learned.window, model.moe_layers)
    sources = [partial(FeatureShard.open, path) for path in feature_shards]
    check_features(dictionary, learned, [source() for source in sources])
    corpus = [partial(read_shard, path) for path in tokens]
    stream = DocumentStream(sources)
    firings = count_firings(stream)
    features = supported_features(config, firings)
    text = Text(sources, corpus, stream.n_tokens, features, firings.tokens_F[features])
    scales = norm_scales(model, corpus, layers)
    manifest = {
        "rule": "measure_effects",
        "config": digest(config.model_dump(mode="json")),
        "seed": seed,
        "dictionary": {"kind": learned.kind, "window": str(learned.window)},
        "features": sources[0]().manifest,
        "layers": list(layers),
        "n_experts": model.n_experts,
    }
    with _waiting(effects) as folder:
        at_least_F = _measure_local(config, model, learned, layers, text, seed, folder)
        strongest = np.sort(np.argsort(-at_least_F, kind="stable")[: config.full_features])
        full = measure_full(
            config,
            model=model,
            dictionary=learned,
            layers=layers,
            features=features[strongest],
            sources=sources,
            corpus=corpus,
            seed=seed,
        )
        with TableWriter(effects, EFFECTS, manifest) as table:
            for layer in layers:
                local = _load(folder, layer)
                rows = effect_rows(layer, features, local, strongest, full[layer],
                                   routes_single_tokens=model.routes_single_tokens)  # fmt: skip
                w_map_FE = weight_map(
                    model,
                    learned,
                    layer,
                    features=features,
                    mean_activation_F=firings.mean_activation_F[features],
                    scale=scales[layer],
                )
                table.write(rows | {"w_map": w_map_FE.ravel()})
    logger.info("%s: %d rows in layers %s", effects, table.n_rows, layers)


def _measure_local(
    config: ExpertsConfig,
    model: MoeModel,
    learned: Dictionary,
    layers: Sequence[int],
    text: Text,
    seed: int,
    folder: Path,
) -> np.ndarray:
    """Save the local effects of each layer; return how large those of each feature are at least."""
    at_least_F = np.zeros(text.features.size)
    for some in _groups(layers, text.features.size, model.n_experts, model.d_model):
        sampler = Sampler(text.n_firings_F, config.effect_tokens, seed=seed)
        for layer, sums in local_sums(model, learned, some, text, sampler).items():
            found = sums.effects(config.confidence)
            at_least_F = np.maximum(at_least_F, found.at_least_F)
            np.savez(folder / f"{layer}.npz", **found._asdict())
    return at_least_F


def local_sums(
    model: MoeModel, learned: Dictionary, layers: Sequence[int], text: Text, sampler: Sampler
) -> dict[int, EffectSums]:
    """Return the sums of local changes at the routers of some layers, from one pass."""
    sums = {layer: EffectSums(text.features.size, model.n_experts) for layer in layers}
    if not model.routes_single_tokens:
        return sums
    directions = {
        layer: torch.from_numpy(written_before(learned, layer)[text.features])
        .float()
        .to(model.device)
        for layer in layers
    }
    is_writing = {layer: rows.any(1).cpu().numpy() for layer, rows in directions.items()}
    progress = Progress("effects", text.n_tokens)
    for batch in batches(text.sources, text.corpus, text.features):
        progress.advance(int(batch.is_valid_T.sum()))
        firings = sampler.take(batch.features_TF)
        residuals = _residuals(model, batch, firings, layers)
        for layer, (residual_TD, row_T) in residuals.items():
            mine = is_writing[layer][firings.feature_I]
            some = Firings(*(part[mine] for part in firings))
            changes_ICE = local_changes(
                residual_TD,
                some._replace(row_I=row_T[some.row_I]),
                directions[layer],
                partial(_route, model, layer),
            )
            sums[layer].add(batch.document_T[some.row_I], some.feature_I, changes_ICE)
    return sums


@torch.inference_mode()
def _residuals(
    model: MoeModel, batch: Batch, firings: Firings, layers: Sequence[int]
) -> dict[int, tuple[Tensor, np.ndarray]]:
    """Run the model on the sequences with sampled tokens; return residuals before each router.

    With each, the row of every token of the batch in it.
    """
    if not firings.row_I.size:
        return {}
    sequences, place = np.unique(firings.row_I // batch.length, return_inverse=True)
    row_T = np.full(batch.document_T.size, -1)
    row_T[firings.row_I] = place * batch.length + firings.row_I % batch.length
    index = torch.from_numpy(sequences)
    sites = {layer: str(Site("resid_mid", layer)) for layer in layers}
    with model.record(sites.values(), stop=True) as acts:
        model.hidden_states(TokenBatch(*(part[index] for part in batch.tokens)))
    return {layer: (acts[site].to(model.device), row_T) for layer, site in sites.items()}


def _route(model: MoeModel, layer: int, residual_TD: Tensor):
    return model.route(layer, model.router_input(layer, residual_TD))


def _groups(
    layers: Sequence[int], n_features: int, n_experts: int, d_model: int
) -> Iterator[Sequence[int]]:
    """Yield as many layers at a time as there is room for."""
    each = n_features * (6 * 8 * n_experts + 4 * d_model)
    step = max(SUMS_BYTES // max(each, 1), 1)
    for start in range(0, len(layers), step):
        yield layers[start : start + step]


@contextmanager
def _waiting(effects: Path) -> Iterator[Path]:
    """Yield an empty folder for local effects until the table is written, and remove it then.

    It has one name, so that a job that was killed leaves nothing once it has been run again.
    """
    folder = effects.with_name(effects.name + ".local")
    remove(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        remove(folder)


def _load(folder: Path, layer: int) -> Effects:
    with np.load(folder / f"{layer}.npz", allow_pickle=False) as saved:
        return Effects(**saved)
