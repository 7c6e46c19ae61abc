"""Making the model of a run that brings none: trained on its corpus, or planted."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from deepseemoe.config import ModelConfig
from deepseemoe.model.planted import plant_model
from deepseemoe.model.training import train_model


def make_model(
    config: ModelConfig,
    *,
    tokenizer_folder: Path,
    shards: Sequence[Path],
    folder: Path,
    seed: int,
    device: str = "cpu",
) -> None:
    """Write the model of `source: nanomoe` or `planted` to `folder`, whole or not at all.

    `shards` are the token shards of the train split, which a planted model does not read. Raises
    ValueError as `train_model` and `plant_model` do, and for `source: hub`.
    """
    if config.source == "planted":
        plant_model(config, tokenizer_folder=tokenizer_folder, folder=folder, seed=seed)
    elif config.source == "nanomoe":
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)
        vocab_size = len(tokenizer)
        train_model(
            config, vocab_size=vocab_size, shards=shards, folder=folder, seed=seed, device=device
        )
    else:
        raise ValueError(f"source `hub` reads {config.name}; there is no model to make")
