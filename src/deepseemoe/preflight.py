"""What a configuration asks of this machine, looked at before anything runs."""

import glob
import importlib.util
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from deepseemoe.config import RunConfig
from deepseemoe.runtime.devices import n_gpus, problem_of_gpus, remarks_on_gpus, shown_gpus
from deepseemoe.runtime.gpus import gpus_here


def problems(run: RunConfig) -> list[str]:
    """Return one line for each thing that the run needs and this machine lacks."""
    found = [*_paths(run), *_model(run), *_devices(run), *_packages(run), *key_problems(run)]
    return [*found, *_imports(run)]


def _paths(run: RunConfig) -> Iterator[str]:
    if run.corpus.source != "files":
        return
    for path in run.corpus.paths:
        if "://" in path:  # of another file system, which only the run asks
            continue
        if not Path(path).exists() and not glob.glob(path, recursive=True):
            yield f"corpus.paths: {path} matches no file; name a file, a folder or a glob"


def _model(run: RunConfig) -> Iterable[str]:
    """Return what is wrong with a model of others, by its config.json."""
    if run.model.source != "hub":
        return ()
    from deepseemoe.model.outline import hub_problems

    return hub_problems(run)


def _imports(run: RunConfig) -> Iterator[str]:
    """Yield what is wrong with the files of imported dictionaries, by their headers."""
    imported = {name: entry for name, entry in run.dictionaries.items() if entry.imported}
    if not imported:
        return
    from deepseemoe.interop.importing import import_problem

    d_model = _d_model(run)
    for name, entry in imported.items():
        for window in run.windows:
            problem = import_problem(
                Path(entry.imported.folder_of(window)),
                format=entry.imported.format,
                window=window,
                d_model=d_model,
                d_dict=entry.d_dict,
            )
            if problem:
                yield f"dictionaries.{name}.imported: {problem}"


def _d_model(run: RunConfig) -> int | None:
    """Return the width of the run's model, None where it is not there (which `_model` tells)."""
    from deepseemoe.model.width import width_of

    try:
        return width_of(run.model)
    except (OSError, ValueError):
        return None


def remarks(run: RunConfig) -> list[str]:
    """Return one line for each thing that this machine lacks and the run does without."""
    return [*remarks_on_gpus(run.devices, gpus_here())] if _asks_for_gpus(run) else []


def _asks_for_gpus(run: RunConfig) -> bool:
    return any(map(run.devices.on_gpu, run.devices.stages))


def _devices(run: RunConfig) -> Iterator[str]:
    if not _asks_for_gpus(run):
        return
    gpus = gpus_here()
    if problem := problem_of_gpus(run.devices, gpus):
        yield problem
    elif gpus.gpus and not gpus.are_fake and n_gpus() < len(gpus.gpus):
        yield (
            f"devices: this machine has {len(gpus.gpus)} GPUs, and torch sees "
            f"{shown_gpus(n_gpus())}; see whether nvidia-smi works and torch is built for CUDA"
        )


def _packages(run: RunConfig) -> Iterator[str]:
    projects = [entry.wandb_project for entry in run.dictionaries.values()]
    if any(projects) and importlib.util.find_spec("wandb") is None:
        yield "dictionaries: wandb_project is set, but wandb is not installed; pip install wandb"


def key_problems(run: RunConfig) -> Iterator[str]:
    """Yield what the language model that describes features needs and this shell lacks."""
    labels = run.labels
    if labels.labeller != "openai":
        return
    if labels.prompts is not None and not Path(labels.prompts).is_dir():
        yield f"labels.prompts: {labels.prompts} is no folder; name one with files as detect.txt"
    if not os.environ.get(labels.api_key_env):
        yield (
            f"labels.api_key_env: the environment variable {labels.api_key_env} is not set; export "
            "the key of your server, or any word where it asks for none"
        )
