"""The tokenizer that a model brings, and whether it is one for that model."""

import os
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from deepseemoe.runtime.hub import HubError, hub_errors


def model_tokenizer(name: str, revision: str | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a Hub name or folder, as `load_model` finds it.

    Raises ValueError where it is not there, has no fast version, or more entries than the model has
    embeddings; OSError where the Hub does not give it.
    """
    name = os.path.expanduser(name)
    if Path(name).is_dir() and not any(map(_is_of_tokenizer, Path(name).iterdir())):
        # transformers would make an empty one of the model's family.
        raise ValueError(
            f"model.name {name}: the folder holds no tokenizer (tokenizer.json); copy the model's "
            "own there"
        )
    try:
        with hub_errors(name, revision):
            n_embeddings = _n_embeddings(name, revision)
            tokenizer = AutoTokenizer.from_pretrained(
                name, revision=revision, trust_remote_code=False
            )
    except HubError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"model.name {name}: its tokenizer cannot be loaded ({error})") from None
    backend_of(tokenizer, name)
    if n_embeddings is not None and len(tokenizer) > n_embeddings:
        raise ValueError(
            f"model.name {name}: its tokenizer has {len(tokenizer)} entries, and the model "
            f"embeddings for {n_embeddings} (vocab_size of config.json); bring the tokenizer that "
            "it was trained with"
        )
    return tokenizer


def _is_of_tokenizer(file: Path) -> bool:
    names = ("tokenizer", "vocab", "merges", "tekken", "spiece", "sentencepiece")
    return file.name.startswith(names) or file.suffix in (".model", ".tiktoken")


def backend_of(tokenizer: PreTrainedTokenizerBase, name: str) -> Tokenizer:
    """Return the fast version of a tokenizer; raise ValueError where it has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"{name}: the tokenizer has no fast version (tokenizer.json); use one that has"
        )
    return backend


def _n_embeddings(name: str, revision: str | None) -> int | None:
    """Return the vocabulary of a model by its config.json; None where that does not say."""
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        return None
    raw, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    raw = raw.get("text_config") or raw
    if "vocab_size" in raw or raw.get("model_type") not in CONFIG_MAPPING:
        return raw.get("vocab_size")
    return CONFIG_MAPPING[raw["model_type"]]().vocab_size  # defaults are not written
