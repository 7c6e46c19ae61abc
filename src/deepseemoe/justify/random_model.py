"""The model of a run with weights that were never trained: the null of routing and meaning.

Random transformers give dictionaries that reconstruct and even read well (Heap et al. 2025, arXiv
2501.17727); what a trained model's features show beyond them is what training put there.
"""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from deepseemoe.config import ModelConfig
from deepseemoe.model.checkpoint import open_checkpoint
from deepseemoe.runtime.files import growing
from deepseemoe.runtime.seeds import seed_for


def write_random_model(
    config: ModelConfig, folder: Path | None, *, random: Path, seed: int
) -> None:
    """Write a model of the same architecture, drawn as its family initialises, to `random`.

    `folder` holds the run's own model; with `source: hub` only the configuration is read. Raises
    ValueError and OSError as `load_model` does.
    """
    network_config = open_checkpoint(config.trained, folder).network_config
    if getattr(network_config, "quantization_config", None) is not None:
        del network_config.quantization_config  # fresh weights are not packed in 4 bits
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "justify", "random weights"))
        dtype = getattr(torch, config.dtype)
        network = AutoModelForCausalLM.from_config(network_config, dtype=dtype)
    with growing(random) as partial:
        network.save_pretrained(partial)


def random_config(config: ModelConfig, folder: Path) -> ModelConfig:
    """Return how to load what `write_random_model` wrote to `folder`."""
    return config.trained.model_copy(
        update={"source": "hub", "name": str(folder), "revision": None, "kernels": "plain"}
    )
