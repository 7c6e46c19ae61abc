"""What a configuration asks of this machine, looked at before anything runs."""

import glob
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from deepseemoe.config import RunConfig


def problems(run: RunConfig) -> list[str]:
    """Return one line for each thing that the run needs and this machine lacks."""
    return [*_paths(run), *_model(run), *_devices(run), *_packages(run), *_keys(run)]


def _paths(run: RunConfig) -> Iterator[str]:
    if run.corpus.source != "files":
        return
    for path in run.corpus.paths:
        if "://" in path:  # of another file system, which only the run asks
            continue
        if not Path(path).exists() and not glob.glob(path, recursive=True):
            yield f"corpus.paths: {path} matches no file; name a file, a folder or a glob"


def _model(run: RunConfig) -> Iterator[str]:
    name = run.model.name
    if run.model.source == "hub" and name and name.startswith((".", "/", "~")):
        folder = Path(name).expanduser()
        if not (folder / "config.json").is_file():
            yield f"model.name: {folder} holds no config.json; name a model folder or a Hub name"


def _devices(run: RunConfig) -> Iterator[str]:
    wanting = [stage for stage, device in run.devices if device == "cuda"]
    if not wanting:
        return
    import torch

    if not torch.cuda.is_available():
        stages = ", ".join(wanting)
        yield f"devices: {stages} ask for cuda, but torch sees no GPU here; write cpu instead"


def _packages(run: RunConfig) -> Iterator[str]:
    projects = [entry.wandb_project for entry in run.dictionaries.values()]
    if any(projects) and importlib.util.find_spec("wandb") is None:
        yield "dictionaries: wandb_project is set, but wandb is not installed; pip install wandb"


def _keys(run: RunConfig) -> Iterator[str]:
    labels = run.labels
    if labels.labeller == "openai" and not os.environ.get(labels.api_key_env):
        yield (
            f"labels.api_key_env: the environment variable {labels.api_key_env} is not set; export "
            "the key of your server, or any word where it asks for none"
        )
