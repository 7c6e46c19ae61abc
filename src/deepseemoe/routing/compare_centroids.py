"""Tables that hold each router's rows against the inputs that it sends to its experts.

Layers are worked through in groups whose inputs fit `GROUP_BYTES`; each group is one run of the
model on the sample.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from deepseemoe.config import RoutingConfig
from deepseemoe.model.adapter import MoeModel
from deepseemoe.names import Site
from deepseemoe.routing.centroids import Centroids, centroids
from deepseemoe.routing.sample import first_sequences, run_sample
from deepseemoe.routing.schemas import CENTROIDS, CENTROIDS_LAYERS
from deepseemoe.routing.tables import Rows
from deepseemoe.routing.tabulate import write_rows
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.tables import digest

logger = logging.getLogger(__name__)

GROUP_BYTES = 2 << 30


def compare_centroids(
    config: RoutingConfig,
    *,
    model: MoeModel,
    tokens: Sequence[Path],
    experts: Path,
    layers: Path,
    seed: int,
) -> None:
    """Write the tables of centroids, `experts` and `layers`, on the first tokens of a split.

    `tokens` are the token shards of the test split. The rows are compared with moe_in, the input
    of the block; NanoMoE's pooled routers read means of it.
    """
    sample = first_sequences(tokens, config.centroid_tokens)
    group = max(1, int(GROUP_BYTES / (4 * model.d_model * sample.token_ids_SN.size)))
    progress = Progress("compare_centroids", len(model.moe_layers), unit="layers")
    of_experts, of_layers, n_tokens = [], [], 0
    for start in range(0, len(model.moe_layers), group):
        some = model.moe_layers[start : start + group]
        sites = [str(Site(point, n)) for n in some for point in ("moe_in", "expert_ids")]
        found = run_sample(model, sample, sites)
        for layer in some:
            inputs_TD = found.values.pop(str(Site("moe_in", layer)))
            ids_TK = found.values[str(Site("expert_ids", layer))]
            rows_ED = torch.as_tensor(model.router_weight(layer)).float().cpu().numpy()
            measured = centroids(inputs_TD, ids_TK, rows_ED, seed=seed)
            of_experts.append(expert_rows(layer, measured))
            of_layers.append(layer_rows(layer, measured, len(ids_TK)))
            n_tokens = len(ids_TK)
            progress.advance(1)
    manifest = {
        "rule": "compare_centroids",
        "config": digest(config.model_dump(mode="json")),
        "seed": seed,
        "n_tokens": n_tokens,
    }
    write_rows(experts, CENTROIDS, of_experts, manifest)
    write_rows(layers, CENTROIDS_LAYERS, of_layers, manifest)
    logger.info("centroids of %d layers on %d tokens", len(of_layers), n_tokens)


def expert_rows(layer: int, found: Centroids) -> Rows:
    """Return the cosines of each expert of a layer."""
    n_experts = found.cosine_E.size
    reasons = np.where(found.n_tokens_E > 0, "", "no token of the sample chose the expert")
    return {
        "layer": np.full(n_experts, layer),
        "expert": np.arange(n_experts),
        "n_tokens": found.n_tokens_E,
        "cosine": found.cosine_E,
        "centred_cosine": found.centred_cosine_E,
        "chance_sd": np.full(n_experts, found.chance_sd),
        "reason": reasons.astype(object),
    }


def layer_rows(layer: int, found: Centroids, n_tokens: int) -> Rows:
    """Return the measures of a layer as a whole."""
    names = ("nearest", "chance_nearest", "ari", "span_share", "chance_span_share")
    values = {"layer": layer, "n_tokens": n_tokens} | {n: getattr(found, n) for n in names}
    return {name: np.array([value]) for name, value in values.items()}
