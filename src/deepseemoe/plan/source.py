"""The model of a run by its `config.json`: its own, the Hub's, or one given by hand."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from deepseemoe.config import ModelConfig, RunConfig
from deepseemoe.model.checkpoint import Checkpoint, open_checkpoint
from deepseemoe.model.nanomoe.modeling import register_nanomoe
from deepseemoe.model.training import new_network


def checkpoint_of(run: RunConfig, file: Path | None = None) -> Checkpoint:
    """Return the model that a run reads, as far as its config.json goes; `file` stands for that.

    From the Hub only config.json is asked for. Raises OSError where it cannot be had, and
    ValueError for a model of no known Mixture-of-Experts family.
    """
    if file is not None:
        return _from_file(file)
    if run.model.source != "hub":
        return _own(run)
    try:
        return open_checkpoint(run.model.trained, None)
    except OSError as error:
        raise OSError(f"{error}; or give its config.json by --model-config FILE") from None


def _from_file(file: Path) -> Checkpoint:
    if not file.is_file():
        raise FileNotFoundError(f"--model-config {file}: no such file; expected a config.json")
    with TemporaryDirectory() as folder:
        shutil.copyfile(file, Path(folder) / "config.json")
        try:
            return open_checkpoint(ModelConfig(source="hub", name=folder), None)
        except (ValueError, OSError) as error:
            raise type(error)(str(error).replace(folder, str(file))) from None


def _own(run: RunConfig) -> Checkpoint:
    """Return the model that the run makes; its vocabulary may come out smaller."""
    register_nanomoe()
    with torch.device("meta"):
        network = new_network(
            run.model.architecture,
            vocab_size=run.corpus.tokenizer.vocab_size,
            max_positions=run.corpus.sequence_length,
            seed=run.seed,
        )
    return Checkpoint(run.model.source, None, run.model.architecture.n_layers, network.config)
