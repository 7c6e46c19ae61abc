"""What the workflow itself costs beside the work: starting jobs, loading models, planning.

A job imports its packages, loads what it works with, and is scheduled; that is the same for a shard
of a thousand tokens and for one of a million.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from deepseemoe.config import RunConfig
from deepseemoe.names import SPLITS
from deepseemoe.plan.dictionaries import Shape, trained_of
from deepseemoe.plan.figures import Figure, shown_hours
from deepseemoe.plan.hours import LOAD_GB_PER_SECOND, hardware, hours_of
from deepseemoe.plan.memory import model_bytes
from deepseemoe.plan.network import Network
from deepseemoe.plan.speed import encoding_speed
from deepseemoe.plan.stores import loaded
from deepseemoe.plan.together import grouped

MODEL_START = 6.0
"""Seconds until a job that loads a model begins: torch and transformers. Measured: 4.5 to 5.9 s of
CPU on the machine of docs/scale.md."""

TORCH_START = 2.5
"""The same for one that needs torch alone; measured: 1.5 to 2.6 s."""

CUDA_START = 3.0
"""What a GPU's context and kernels add; assumed."""

JOB_SECONDS = 0.4
"""What Snakemake and an empty script take, a job; measured: 0.2 s of CPU, 0.4 s where others work
on the same cores (benchmarks/workflow_overhead.py)."""

MOST = 0.05
"""Of the work, what may go to the rest."""

SHORT = 120.0
"""Seconds of overhead that nobody is warned of."""


class Stage(NamedTuple):
    """The jobs of a rule; `start` and `load` are seconds of each, `work` hours of all together."""

    name: str
    n_jobs: int
    start: float
    load: float
    work: float

    @property
    def overhead(self) -> float:
        """Hours that are not work, of all jobs."""
        return self.n_jobs * (self.start + JOB_SECONDS + self.load) / 3600

    def figure(self) -> Figure:
        """Return the overhead as a share of the work."""
        each = f"{self.start + JOB_SECONDS:.1f} s to start + {self.load:,.1f} s to load"
        jobs = f"{self.n_jobs:,} job{'s' * (self.n_jobs > 1)}"
        how = f"{jobs} × ({each}) = {shown_hours(self.overhead)}, beside {shown_hours(self.work)}"
        return Figure(self.name, self.overhead / self.work, "share", how, True)


def stages_of(
    run: RunConfig, network: Network, shapes: Sequence[Shape], given: float | None = None
) -> tuple[Stage, ...]:
    """Return the heavy rules of a run; `given` is the speed of capture, where it is known."""
    hours = {figure.name: figure.value for figure in hours_of(run, network, shapes, given)}
    return tuple(_stages(run, network, shapes, hours))


def workflow_figures(run: RunConfig, stages: Sequence[Stage]) -> tuple[Figure, ...]:
    """Return the overhead of each rule, of all together, and how long planning takes."""
    overhead, work = total_of(stages)
    how = f"{shown_hours(overhead)} beside {shown_hours(work)}; at most {MOST:.0%} is aimed at"
    n_jobs = sum(stage.n_jobs for stage in stages)
    n_shards = sum(run.corpus.n_shards(split) for split in SPLITS)
    plan = planning_seconds(n_shards)
    told = f"each call of snakemake, for {n_shards:,} shards"
    return (
        *(stage.figure() for stage in stages),
        Figure(f"these {n_jobs:,} jobs", overhead / work, "share", how, True),
        Figure("planning", plan / 3600, "hours", told, True),
    )


def total_of(stages: Iterable[Stage]) -> tuple[float, float]:
    """Return the hours of overhead, and of work."""
    stages = tuple(stages)
    return sum(stage.overhead for stage in stages), sum(stage.work for stage in stages)


def planning_seconds(n_shards: int) -> float:
    """Return how long Snakemake thinks before the first job; measured at 100, 1,000 and 5,000."""
    return 2.6 + 2e-3 * n_shards + 0.85e-6 * n_shards**2


def warnings_of(run: RunConfig, stages_for: Callable[[RunConfig], Sequence[Stage]]) -> list[str]:
    """Return a line where too little of the time is work, with what to write instead."""
    overhead, work = total_of(stages_for(run))
    if overhead <= MOST * work or 3600 * overhead <= SHORT:
        return []

    def helps(changed: RunConfig) -> bool:
        overhead, work = total_of(stages_for(changed))
        return overhead <= MOST * work

    found = [next((c for c, r in series if helps(r)), None) for series in _series(run)]
    written = ", or ".join(change for change in found if change)
    advice = f"write {written}" if written else "only more text makes that less"
    return [
        f"{shown_hours(overhead)} of starting and loading beside {shown_hours(work)} of work "
        f"({overhead / work:.0%}, more than {MOST:.0%}); {advice}"
    ]


def _stages(
    run: RunConfig, network: Network, shapes: Sequence[Shape], hours: dict[str, float]
) -> Iterator[Stage]:
    part, whole = (_seconds(model_bytes(run.model, n)[0]) for n in (loaded(run, network), network))
    for name, value in hours.items():
        if name.startswith("cache_activations"):
            jobs = sum(_capture_jobs(run))
            yield Stage(name, jobs, _start(run, MODEL_START, "activations"), part, value)
    yield from _training(run, network, shapes, hours, part)
    start = _start(run, MODEL_START, "evaluation")
    work = hours["evaluate_dictionary"] - len(shapes) * whole / 3600
    yield Stage("evaluate_dictionary", len(shapes), start, whole, work)
    start, device = _start(run, TORCH_START, "features"), hardware(run, "features")
    seconds = sum(run.corpus.n_tokens.test / encoding_speed(s, device) for s in shapes)
    load = sum(_seconds(shape.file_bytes) for shape in shapes) / len(shapes)
    yield Stage("encode_features", len(shapes), start, load, seconds / 3600)


def _training(
    run: RunConfig,
    network: Network,
    shapes: Sequence[Shape],
    hours: dict[str, float],
    model_seconds: float,
) -> Iterator[Stage]:
    trained = trained_of(shapes)
    if not trained:
        return
    if run.batches.source == "live":
        start = _start(run, MODEL_START, "activations", "dictionary")
        yield Stage("train_live", 1, start, model_seconds, hours["train_live"])
        return
    n_groups, n_rounds = len(grouped(run, d_model=network.d_model)), len(run.rounds())
    # From the second round on a job reads what the one before it wrote.
    moved = sum(2 * shape.checkpoint_bytes for shape in trained) / n_groups
    load = _seconds(moved) * (n_rounds - 1) / n_rounds
    work = sum(value for name, value in hours.items() if name.startswith("train "))
    start = _start(run, TORCH_START, "dictionary")
    yield Stage("train dictionaries", n_groups * n_rounds, start, load, work)


def _capture_jobs(run: RunConfig) -> Iterator[int]:
    """Yield how many jobs capture each split that is stored."""
    size = run.activations.shards_per_job
    for split in SPLITS:
        if split == "train" and run.batches.source == "live":
            continue
        is_in_rounds = split == "train" and len(run.rounds()) > 1
        yield len(run.rounds()) if is_in_rounds else -(-run.corpus.n_shards(split) // size)


def _start(run: RunConfig, seconds: float, *stages: str) -> float:
    return seconds + CUDA_START * any(map(run.devices.on_gpu, stages))


def _seconds(n_bytes: float) -> float:
    """Return how long it takes to load some bytes."""
    return n_bytes / (LOAD_GB_PER_SECOND * 1e9)


def _series(run: RunConfig) -> Iterator[Iterator[tuple[str, RunConfig]]]:
    """Yield what makes jobs fewer, each from mild to drastic, as one would write it."""
    n_shards = max(run.corpus.n_shards(split) for split in SPLITS)
    doublings = [2**n for n in range(1, n_shards.bit_length() + 1)]
    yield (
        _changed(run, "activations", shards_per_job=times * run.activations.shards_per_job)
        for times in doublings
    )
    yield (
        _changed(run, "corpus", shard_tokens=times * run.corpus.shard_tokens) for times in doublings
    )
    if run.batches.round_shards:
        yield (
            _changed(run, "batches", round_shards=times * run.batches.round_shards)
            for times in doublings
        )


def _changed(run: RunConfig, section: str, **values: int) -> tuple[str, RunConfig]:
    part = getattr(run, section).model_copy(update=values)
    pairs = ", ".join(f"{key}: {value}" for key, value in values.items())
    return f"{section}: {{{pairs}}}", run.model_copy(update={section: part})
