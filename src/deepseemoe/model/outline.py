"""A model without its weights: what its layers are and how large, at the cost of milliseconds."""

from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from deepseemoe.config import RunConfig
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.checkpoint import Checkpoint, open_checkpoint
from deepseemoe.model.weight_files import check_weight_files


def outline(checkpoint: Checkpoint, *, head: bool = False, dtype: str = "float32") -> MoeModel:
    """Return the model on the meta device, where it holds and computes nothing.

    Raises ValueError where its configuration describes none that can be built.
    """
    auto = AutoModelForCausalLM if head else AutoModel
    try:
        with torch.device("meta"), no_init_weights():
            network = auto.from_config(checkpoint.network_config, dtype=getattr(torch, dtype))
    except Exception as error:  # whatever a wrong number or name leads to inside of transformers
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{checkpoint.where}: config.json makes no model ({told})") from error
    return MoeModel(network)


def check_experts(checkpoint: Checkpoint) -> None:
    """Raise ValueError where all layers of a model are dense."""
    if not outline(checkpoint).moe_layers:
        raise ValueError(
            f"{checkpoint.where}: all {checkpoint.n_layers} layers are dense, no experts to read"
        )


def hub_problems(run: RunConfig) -> list[str]:
    """Return what a run asks of a model of `source: hub` that is not there, or why it is not."""
    try:
        checkpoint = open_checkpoint(run.model.trained, None)
        check_experts(checkpoint)
        if Path(checkpoint.where).is_dir():
            check_weight_files(Path(checkpoint.where))
    except (OSError, ValueError) as error:
        return [f"model.name: {error}"]
    model = outline(checkpoint)
    problems = []
    if len(run.model.expert_domains) not in (0, model.n_experts):
        problems.append(
            f"model.expert_domains: names {len(run.model.expert_domains)} experts, and the model "
            f"has {model.n_experts} a layer; name each"
        )
    return problems + run.layer_problems(
        n_layers=model.n_layers,
        moe_layers=model.moe_layers,
        n_shared_experts=model.n_shared_experts,
    )
