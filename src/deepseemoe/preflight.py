"""What a configuration asks of this machine, looked at before anything runs."""

import glob
import importlib.util
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from deepseemoe.config import RunConfig
from deepseemoe.runtime.devices import (
    counted_gpus,
    n_gpus,
    problem_of_gpus,
    remarks_on_gpus,
    shown_gpus,
)
from deepseemoe.runtime.fingerprint import name_problem
from deepseemoe.runtime.gpus import gpus_here

READERS_OF_TABLES = {
    *("all", "write_config", "write_summary", "draw_figures", "label_features", "label_experts"),
    *("compare", "compare_runs", "draw_comparison", "draw_trust", "draw_justification"),
    *("justify", "compare_arms", "trust", "judge_worlds", "conclude_trust"),
}
"""Rules whose jobs read no model and no text of the configuration."""


WRITERS = ("cache_", "train_")
"""What names of rules begin with that write most of a run."""


def problems(run: RunConfig, rules: Collection[str] | None = None) -> list[str]:
    """Return one line for each thing that the run needs and this machine lacks.

    `rules` are those that have jobs to do; what only others need is not looked at. None is all of
    `snakemake` alone.
    """
    found = [*_results(run)]
    if rules is None or {*rules} - READERS_OF_TABLES:
        found += [*_model(run), *_packages(run)]
        # Jobs to do may run elsewhere; rules/gpus.smk knows, and looks itself.
        found += [*_devices(run)] if rules is None else []
    if not found and (rules is None or any(rule.startswith(WRITERS) for rule in rules)):
        found += _disk(run)
    if rules is None or {"pack_corpus", "prepare_tokenizer"} & {*rules}:
        found += [*_paths(run), *_domains(run)]
    if rules is None or {"label_features", "label_experts"} & {*rules}:
        found += key_problems(run)
    if rules is None or "import_dictionary" in rules:
        found += _imports(run)
    if rules is not None and "compare_runs" in rules:
        found += _compared(run)
    return found


def _results(run: RunConfig) -> Iterator[str]:
    """Yield which of the folders that Snakemake writes to cannot be written."""
    for name in ("results", "logs", "benchmarks"):
        folder = Path(run.pathvars.get(name, name)).absolute()
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not existing.is_dir():
            yield f"pathvars.{name}: {existing} is no folder; name another"
        elif not os.access(existing, os.W_OK | os.X_OK):
            yield f"pathvars.{name}: {existing} cannot be written; name another, or free it"


def _paths(run: RunConfig) -> Iterator[str]:
    if run.corpus.source != "files":
        return
    if unnamed := [*filter(None, map(name_problem, run.corpus.paths))]:
        yield f"corpus.paths: {unnamed[0]}"
        return
    for path in run.corpus.paths:
        if "://" in path:  # of another file system, which only the run asks
            from deepseemoe.corpus.listing import check_protocol

            yield from _told("corpus.paths", check_protocol, path)
        elif Path(path).exists():
            yield from _unreadable(Path(path))
        elif not glob.glob(path, recursive=True):
            yield f"corpus.paths: {path} matches no file; name a file, a folder or a glob"
            return
    if not any("://" in path for path in run.corpus.paths):
        from deepseemoe.corpus.listing import list_files

        yield from _told("corpus.paths", list_files, run.corpus)


def _unreadable(path: Path) -> Iterator[str]:
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        yield f"corpus.paths: {path} cannot be read (no permission); change its mode, or leave it"


def _domains(run: RunConfig) -> Iterator[str]:
    """Yield which domains generated text has not got; those of files are known once it is read."""
    if run.corpus.source in ("files", "hub"):
        return
    asked = {"corpus.domains": run.corpus.domains, "labels.domains": run.labels.domains}
    if not any(asked.values()) and run.corpus.filters.max_chars != "mean":
        return
    from deepseemoe.corpus.stream import check_generated

    for key, domains in asked.items():
        corpus = run.corpus.model_copy(update={"domains": tuple(domains or ())})
        for line in _told("", check_generated, corpus):
            yield line.replace("corpus.domains", key)


def _told(where: str, check: Callable[..., object], *arguments: object) -> Iterator[str]:
    """Yield the line that a check raises."""
    try:
        check(*arguments)
    except (OSError, ValueError) as error:
        yield f"{where}: {error}" if where else str(error)


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
            f"devices: this machine has {counted_gpus(len(gpus.gpus))}, and torch sees "
            f"{shown_gpus(n_gpus())}; see whether nvidia-smi works and torch is built for CUDA"
        )


def _packages(run: RunConfig) -> Iterator[str]:
    projects = [entry.wandb_project for entry in run.dictionaries.values()]
    if any(projects) and importlib.util.find_spec("wandb") is None:
        yield "dictionaries: wandb_project is set, but wandb is not installed; pip install wandb"


def _disk(run: RunConfig) -> Iterator[str]:
    """Yield whether the disk of the results is too small, by the plan of the run.

    The plan imports torch, so it is asked only where the text alone could be too much.
    """
    folder = Path(run.pathvars.get("results", "results")).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if run.model.source != "hub" and _rough_bytes(run) < free:
        return
    from deepseemoe.plan.room import bytes_to_come

    needed = bytes_to_come(run, folder / run.name, free)
    if needed > free:
        yield (
            f"pathvars.results: {existing} has {free / 2**30:.1f} GiB free, and the run writes "
            f"{needed / 2**30:.1f} GiB more; see `deepseemoe plan` for what takes less"
        )


def _rough_bytes(run: RunConfig) -> int:
    """Return more bytes than a run of our own model writes, from the configuration alone."""
    shape, n_tokens = run.model.architecture, sum(n for _, n in run.corpus.n_tokens)
    a_token = (
        64
        + len(run.sites()) * (2 * shape.d_model + 64)
        + shape.n_layers * (8 * shape.n_experts + 8 * shape.top_k)
    )
    features = sum(entry.d_dict for entry in run.dictionaries.values()) * len(run.windows)
    of_features = features * (64 * shape.d_model * shape.n_layers + 200_000)
    return 2 * n_tokens * a_token + of_features + 2**28


def _compared(run: RunConfig) -> Iterator[str]:
    """Yield which runs of a comparison are not finished."""
    from deepseemoe.compare.finished import read_runs

    def read() -> None:
        read_runs(run.compare.entries, Path(run.pathvars.get("results", "results")))

    yield from _told("", read)


def key_problems(run: RunConfig) -> Iterator[str]:
    """Yield what the language model that describes features needs and this shell lacks."""
    labels = run.labels
    if labels.labeller != "openai":
        return
    if labels.prompts is not None:
        from deepseemoe.labels.asking.prompts import prompt_problem

        if problem := prompt_problem(labels.prompts):
            yield problem
    if not os.environ.get(labels.api_key_env):
        yield (
            f"labels.api_key_env: the environment variable {labels.api_key_env} is not set; export "
            "the key of your server, or any word where it asks for none"
        )
