"""The map of writes: which experts write which features into the residual.

Reads ask which features make a router call an expert; writes ask what the expert does once called.
The answer needs each expert's own output, which no store holds, so the model is run again.

Axes: T valid tokens of a batch, S sequences, N sequence length, D d_model, F supported features,
E experts, K top_k, R rows of the table.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepseemoe.config import ExpertsConfig
from deepseemoe.corpus.shards import read_shard
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.experts.activation_changes import (
    Reading,
    activation_changes,
    readings_of,
    reads_downstream,
    written_by_experts,
)
from deepseemoe.experts.belonging import check_features
from deepseemoe.experts.contributions import LayerContributions, contrast
from deepseemoe.experts.documents import DocumentStream
from deepseemoe.experts.reads import router_layers
from deepseemoe.experts.schemas import WRITES
from deepseemoe.experts.shared import SharedOutput, write_shared
from deepseemoe.experts.support import count_firings, supported_features
from deepseemoe.experts.token_batches import Batch, batches
from deepseemoe.features.store import FeatureShard
from deepseemoe.model.adapter import MoeModel
from deepseemoe.names import Site
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.tables import TableWriter, digest

logger = logging.getLogger(__name__)

NOT_WRITTEN = "contrast: the feature writes nothing at this layer"
ONE_DOCUMENT = "intervals: the tokens are of one document"
SHARED_PARTS = ("expert_out", "shared_out")
"""The parts of a block with shared experts; their sum is what a norm after it reads."""

NOT_READ = "expert_causal: the feature reads nothing that this block has written"


def map_writes(
    config: ExpertsConfig,
    *,
    model: MoeModel,
    dictionary: Path,
    feature_shards: Sequence[Path],
    tokens: Sequence[Path],
    writes: Path,
    seed: int,
    shared: Path | None = None,
) -> None:
    """Write the map of writes of one dictionary, and to `shared` what shared experts write.

    `tokens` are the test split's shards of the corpus that `feature_shards` are of, in order. All
    is computed where the model is; `seed` is of the run and only told in the manifest. Raises
    ValueError for a transcoder on layers without experts, and where files do not belong together.
    """
    learned = Dictionary.load(dictionary)
    layers = writing_layers(learned, model.moe_layers)
    sources = [partial(FeatureShard.open, path) for path in feature_shards]
    check_features(dictionary, learned, [source() for source in sources])
    corpus = [partial(read_shard, path) for path in tokens]
    text = DocumentStream(sources)
    firings = count_firings(text)
    features = supported_features(config, firings)
    measured = {
        layer: Measured.start(model, learned, layer, features, n_experts=model.n_experts)
        for layer in layers
    }
    outputs = shared_outputs(model, learned, features) if shared else {}
    progress = Progress("writes", text.n_tokens)
    for batch in batches(sources, corpus, features) if measured or outputs else ():
        add_batch(model, measured, batch, outputs)
        progress.advance(int(batch.is_valid_T.sum()))
    n_feature = firings.tokens_F[features]
    rows = [
        write_rows(config, layer, features, n_feature, one, text.n_tokens)
        for layer, one in measured.items()
    ]
    manifest = {
        "rule": "map_writes",
        "config": digest(config.model_dump(mode="json")),
        "seed": seed,
        "dictionary": {"kind": learned.kind, "window": str(learned.window)},
        "features": sources[0]().manifest,
    }
    with TableWriter(writes, WRITES, manifest) as table:
        for part in rows:
            table.write(part)
    logger.info("%s: %d pairs in layers %s", writes, table.n_rows, layers)
    if shared:
        columns = [one.columns(n_feature, config.confidence) for one in outputs.values()]
        n_shared = {"n_shared_experts": model.n_shared_experts}
        write_shared(shared, columns, manifest | n_shared)


def shared_outputs(
    model: MoeModel, learned: Dictionary, features: np.ndarray
) -> dict[int, SharedOutput]:
    """Return sums of nothing of the shared experts, where there are any.

    Of all layers whose experts the dictionary is about: those whose routers its features may call,
    and those of its window, where alone it has directions that experts write along.
    """
    if not model.n_shared_experts:
        return {}
    writing = writing_layers(learned, model.moe_layers)
    layers = {*writing, *router_layers(learned.kind, learned.window, model.moe_layers)}
    return {
        layer: SharedOutput(
            layer,
            features,
            unit_directions(learned, layer, features).to(model.device)
            if layer in writing
            else None,
        )
        for layer in sorted(layers)
    }


class Measured(NamedTuple):
    """What is added up of one layer, and where features read what its block has written."""

    sums: LayerContributions
    readings: tuple[Reading, ...]

    @classmethod
    def start(
        cls, model: MoeModel, learned: Dictionary, layer: int, features: np.ndarray, n_experts: int
    ) -> "Measured":
        """Return sums of nothing."""
        directions_FD = unit_directions(learned, layer, features).to(model.device)
        readings = readings_of(learned, layer, features, model.device)
        return cls(LayerContributions(directions_FD, n_experts), readings)


def writing_layers(dictionary: Dictionary, moe_layers: Sequence[int]) -> tuple[int, ...]:
    """Return the layers of the window with experts.

    A crosscoder's window may have none where the router above it reads its features: its map is
    empty then. Raises ValueError for a transcoder without one.
    """
    layers = tuple(layer for layer in dictionary.window.layers if layer in moe_layers)
    if not layers and dictionary.kind == "transcoder":
        raise ValueError(
            f"no layer of {dictionary.window} has experts; layers with experts are "
            f"{tuple(moe_layers)}; choose a window that meets them"
        )
    return layers


def unit_directions(dictionary: Dictionary, layer: int, features: np.ndarray) -> Tensor:
    """Return what features write at a layer as unit vectors (F, D); 0 where they write nothing."""
    rows_FD = torch.as_tensor(dictionary.decoder_FLD)[features, layer - dictionary.window.first]
    norm_F = torch.linalg.vector_norm(rows_FD.float(), dim=1, keepdim=True)
    return rows_FD.float() / norm_F.clamp_min(torch.finfo(torch.float32).tiny)


@torch.inference_mode()
def add_batch(
    model: MoeModel,
    measured: dict[int, Measured],
    batch: Batch,
    outputs: Mapping[int, SharedOutput] = MappingProxyType({}),
) -> None:
    """Run the model on a batch and add what its experts wrote to the sums of each layer.

    `outputs` are the sums of shared experts.
    """
    names = ["moe_in", "expert_ids", "expert_weights", *_block_parts(model)]
    sites = {layer: [str(Site(name, layer)) for name in names] for layer in measured}
    normed = {r.norm_layer for one in measured.values() for r in one.readings} - {None}
    before = {layer: str(Site("resid_mid", layer)) for layer in sorted(normed)}
    halves = [str(Site(name, layer)) for layer in outputs for name in SHARED_PARTS]
    wanted = dict.fromkeys([*chain(*sites.values()), *before.values(), *halves])
    with model.record([*wanted], stop=True) as acts:
        model.hidden_states(batch.tokens)
    rows = np.flatnonzero(batch.is_valid_T)
    index = torch.from_numpy(rows).to(model.device)
    resid_mid = {layer: acts[site].to(model.device)[index] for layer, site in before.items()}
    document_T, features_TF = batch.document_T[rows], batch.features_TF[rows]
    for layer, (sums, readings) in measured.items():
        x_TD, ids_TK, weights_TK, *parts = (
            acts[site].to(model.device)[index] for site in sites[layer]
        )
        outputs_TKD = model.expert_outputs(layer, x_TD, ids_TK, weights_TK).float()
        block_TD = sum(parts) if parts else None
        written_TKD = written_by_experts(model, layer, outputs_TKD, block_TD)
        changes_IK = activation_changes(model, readings, written_TKD, resid_mid, features_TF)
        experts_TK = ids_TK.cpu().numpy()
        sums.add(document_T, features_TF, written_TKD, experts_TK, changes_IK)
    token_T = batch.tokens.token_ids.flatten().cpu().numpy()[rows]
    for layer, output in outputs.items():
        routed_TD, shared_TD = (
            acts[str(Site(name, layer))].to(model.device)[index].float() for name in SHARED_PARTS
        )
        block_TD = routed_TD + shared_TD if model.has_output_norm else None
        written_TKD = written_by_experts(model, layer, shared_TD[:, None], block_TD)
        output.add(
            document_T,
            token_T,
            features_TF,
            shared_TD=shared_TD,
            routed_TD=routed_TD,
            written_TD=written_TKD[:, 0],
        )


def _block_parts(model: MoeModel) -> tuple[str, ...]:
    """Return the sites whose sum a norm after the block reads; none where there is no norm."""
    if not model.has_output_norm:
        return ()
    return SHARED_PARTS if model.n_shared_experts else ("expert_out",)


def write_rows(
    config: ExpertsConfig,
    layer: int,
    features: np.ndarray,
    n_feature: np.ndarray,
    measured: Measured,
    n_tokens: int,
) -> dict[str, np.ndarray]:
    """Return the columns of one layer: pairs with support, surest first within each expert.

    Support is that of the map of reads (`min_expected` joint tokens by chance), as many tokens on
    and as many off. Features that neither write at the layer nor read what it writes are left out.
    """
    found = contrast(measured.sums.finish(), config.confidence)
    expected = n_feature[:, None] * found.n_expert_E / n_tokens
    n_off = found.n_expert_E - found.n_both
    least = np.minimum(np.minimum(expected, found.n_both), n_off)
    writes_F = measured.sums.directions_FD.any(1)
    reads_F = reads_downstream(measured.readings, features.size)
    has_support = (least >= config.min_expected) & (writes_F | reads_F)[:, None]
    place, expert = np.nonzero(has_support)
    low = np.where(writes_F[:, None], found.low, np.nan)
    order = np.lexsort((-found.change_low[place, expert], -low[place, expert], expert))
    place, expert = place[order], expert[order]
    contrasts = {
        "mean_on": found.mean_on,
        "mean_off": found.mean_off,
        "contrast": found.mean_on - found.mean_off,
        "contrast_lo": found.low,
        "contrast_hi": found.high,
        "share": found.share,
    }
    changes = {
        "expert_causal": found.change,
        "expert_causal_lo": found.change_low,
        "expert_causal_hi": found.change_high,
    }
    return {
        "layer": np.full(place.size, layer),
        "expert": expert,
        "feature": features[place],
        "n_both": found.n_both[place, expert],
        "n_causal": np.where(reads_F[:, None], found.n_both, 0)[place, expert],
        "reason": _reasons(writes_F[place], reads_F[place], np.isnan(found.low[place, expert])),
        **_where(writes_F, contrasts, place, expert),
        **_where(reads_F, changes, place, expert),
    }


def _where(
    is_there_F: np.ndarray, tables: dict[str, np.ndarray], place: np.ndarray, expert: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the values of pairs, NaN for features that have none."""
    return {
        name: np.where(is_there_F[place], table[place, expert], np.nan)
        for name, table in tables.items()
    }


def _reasons(writes_R: np.ndarray, reads_R: np.ndarray, is_narrow_R: np.ndarray) -> np.ndarray:
    """Return why numbers of each row are missing (R,)."""
    reasons_R = np.full(writes_R.size, "", object)
    told = (~writes_R, NOT_WRITTEN), (~reads_R, NOT_READ), (is_narrow_R, ONE_DOCUMENT)
    for applies_R, reason in told:
        reasons_R[applies_R] = [f"{r}; {reason}" if r else reason for r in reasons_R[applies_R]]
    return reasons_R
