"""The table of router saturation: the kept checkpoints of the run's own model against its end."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepseemoe.config import ModelConfig, RoutingConfig
from deepseemoe.corpus.shards import TokenShard
from deepseemoe.model.kept import KEPT, Kept, kept_models
from deepseemoe.model.loading import load_model
from deepseemoe.names import Site
from deepseemoe.routing.sample import Sample, first_sequences, run_sample
from deepseemoe.routing.saturation import saturation
from deepseemoe.routing.schemas import SATURATION
from deepseemoe.routing.tables import Rows
from deepseemoe.routing.tabulate import write_rows
from deepseemoe.runtime.tables import digest


def measure_saturation(
    config: RoutingConfig,
    *,
    model_config: ModelConfig,
    model: Path,
    tokens: Sequence[Path],
    table: Path,
    devices: Sequence[str] = ("cpu",),
    seed: int,
) -> None:
    """Write OLMoE's equation 5 of every kept checkpoint, layer, and k of 1 and top_k.

    Raises ValueError where the model folder keeps no checkpoints.
    """
    kept = kept_models(model)
    if not kept:
        raise ValueError(
            f"{model / KEPT}: no checkpoints are kept; set model.training.keep_checkpoints"
        )
    sample = first_sequences(tokens, config.saturation_tokens)
    final, n_experts = _route(model_config, model, sample, devices)
    parts = []
    for one in kept:
        then, _ = _route(model_config, one.folder, sample, devices)
        parts += [
            saturation_rows(one, site, then, final, n_experts, config.n_bootstrap, seed)
            for site in final.values
        ]
    manifest = {
        "rule": "measure_saturation",
        "config": digest(config.model_dump(mode="json")),
        "seed": seed,
        "n_tokens": final.document_T.size,
    }
    write_rows(table, SATURATION, parts, manifest)


def saturation_rows(
    kept: Kept, site: str, then: Sample, final: Sample, n_experts: int, n_draws: int, seed: int
) -> Rows:
    """Return the saturation of a layer at a checkpoint, for its first expert and for all top_k."""
    ids_TK, final_TK = then.values[site], final.values[site]
    ks = sorted({1, ids_TK.shape[1]})
    found = [
        saturation(ids_TK[:, :k], final_TK[:, :k], n_experts,
                   document_T=final.document_T, n_draws=n_draws, seed=seed)
        for k in ks
    ]  # fmt: skip
    return {
        "layer": np.full(len(ks), Site.parse(site).layer),
        "step": np.full(len(ks), kept.step),
        "trained_share": np.full(len(ks), kept.trained_share),
        "k": np.array(ks),
        "n_tokens": np.full(len(ks), len(ids_TK)),
        "saturation": np.array([one.saturation for one in found]),
        "saturation_lo": np.array([one.low for one in found]),
        "saturation_hi": np.array([one.high for one in found]),
        "chance": np.array([one.chance for one in found]),
        "chance_by_load": np.array([one.chance_by_load for one in found]),
    }


def _route(
    config: ModelConfig, folder: Path, sample: TokenShard, devices: Sequence[str]
) -> tuple[Sample, int]:
    """Return how one set of weights routes the sample, and how many experts there are."""
    model = load_model(config, folder, devices=devices, head=False)
    sites = [str(Site("expert_ids", layer)) for layer in model.moe_layers]
    return run_sample(model, sample, sites), model.n_experts
