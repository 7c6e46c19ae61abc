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
from deepseemoe.experts.agreement import agreement_rows, calibration
from deepseemoe.experts.belonging import check_effects, check_features, check_stores
from deepseemoe.experts.discovery import SURE, layer_factors
from deepseemoe.experts.effects_file import EffectsFile
from deepseemoe.experts.evidence import weigh
from deepseemoe.experts.join import Join, join
from deepseemoe.experts.rows import layer_rows
from deepseemoe.experts.schemas import AGREEMENT, READS
from deepseemoe.experts.summary import Summary
from deepseemoe.experts.support import count_firings
from deepseemoe.features.store import FeatureShard
from deepseemoe.names import Window, layer_name
from deepseemoe.runtime.files import write_json
from deepseemoe.runtime.tables import TableWriter, digest, row_groups, write_table

logger = logging.getLogger(__name__)


def map_reads(
    config: ExpertsConfig,
    *,
    dictionary: Path,
    effects: Path,
    feature_shards: Sequence[Path],
    stores: Sequence[Path],
    reads: Path,
    agreement: Path,
    summary: Path,
    seed: int,
) -> None:
    """Write the map of reads of one dictionary, how its evidence agrees, and a summary.

    `stores` are the test split's activation stores that `feature_shards` were encoded from, in
    order; `effects` is what measure_effects made with the model, which is not needed here. Raises
    ValueError where files do not belong together.
    """
    learned, measured = Dictionary.load(dictionary), EffectsFile(effects)
    opened = [ActivationStore(path) for path in stores]
    sources = [partial(FeatureShard.open, path) for path in feature_shards]
    shards = [source() for source in sources]
    check_features(dictionary, learned, shards)
    check_effects(effects, measured.manifest, shards)
    joined = join(sources, opened, layers=measured.layers, n_experts=measured.n_experts)
    check_stores(shards, opened)
    manifest = {
        "rule": "map_reads",
        "config": digest(config.model_dump(mode="json")),
        "seed": seed,
        "dictionary": {"kind": learned.kind, "window": str(learned.window)},
        "features": shards[0].manifest,
    }
    told, agreed = write_reads(config, joined, measured, reads, manifest, seed=seed)
    write_table(agreement, AGREEMENT, agreed, manifest)
    write_json(summary, told)
    if told["problem"]:
        logger.warning("%s: nothing was tested: %s", reads, told["problem"])
    logger.info("%s: %d of %d tested pairs kept", reads, told["n_kept"], told["n_tested"])


def write_reads(
    config: ExpertsConfig,
    joined: Join,
    measured: EffectsFile,
    reads: Path,
    manifest: dict[str, Any],
    *,
    seed: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write the table layer by layer; return the summary and the rows of agreement.

    q_all needs the p of all layers, so rows are kept until the last is known: as parquet, in a
    file beside the table.
    """
    firings = count_firings(joined.text)
    summary, agreed = Summary(config, joined, firings), []
    draft = reads.with_name(f"{reads.name}.layers")
    with TableWriter(draft, READS, manifest) as table:
        for evidence in weigh(joined, config, firings, seed=seed):
            layer = measured.layers[evidence.place]
            effects = measured.of(layer, evidence.features_F)
            rows, p = layer_rows(layer, evidence, w_map_FE=effects["w_map"], effects=effects)
            table.write({column.name: rows[column.name] for column in READS})
            agreed += agreement_rows(layer, rows)
            summary.add(layer, evidence, rows, p, calibration(rows))
            logger.info("%s: %d pairs tested", layer_name(layer), rows["expert"].size)
    _finish(draft, reads, manifest, dict(zip(summary.layers, summary.p, strict=True)))
    return summary.told(), agreed


def _finish(draft: Path, reads: Path, manifest: dict[str, Any], p: dict[int, float]) -> None:
    """Copy the rows, with q_all raised to what the choice of layers costs."""
    q_L, factor_L = layer_factors(np.array(list(p.values())), SURE)
    of_layer = dict(zip(p, zip(q_L, factor_L, strict=True), strict=True))
    with TableWriter(reads, READS, manifest) as table:
        for rows in row_groups(draft):
            least, factor = of_layer[rows["layer"][0]]  # a part of the draft is one layer
            q_all = np.clip(np.maximum(rows["q_all"] * factor, least), 0, 1)
            table.write(rows | {"q_all": q_all})
    draft.unlink()


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
