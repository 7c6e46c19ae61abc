"""Training of all dictionaries of a run from one running model, with no store of the train split.

The model fills a pool in a thread of its own, on its own device; the dictionaries take turns on
theirs, a round of the pool each. Every dictionary keeps checkpoints as from stores, and they may
stand at different steps: whoever is ahead waits for the others.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from deepseemoe.activations.pool import Pool
from deepseemoe.activations.shuffled_text import ShuffledText
from deepseemoe.config import ActivationsConfig, BatchesConfig, DictionaryConfig
from deepseemoe.dictionary.batches import open_stores
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.live_batches import LiveBatches
from deepseemoe.dictionary.session import Session
from deepseemoe.dictionary.train import Task, begin, finish
from deepseemoe.model.adapter import MoeModel
from deepseemoe.names import Window
from deepseemoe.runtime.files import remove

logger = logging.getLogger(__name__)


class Pupil(NamedTuple):
    """A dictionary, its task, its batches, and its training."""

    task: Task
    batches: LiveBatches
    session: Session
    dictionary: Dictionary

    @property
    def n_rounds(self) -> int:
        """Rounds of the pool that its training takes."""
        return -(-self.session.trainer.recipe.n_steps // self.batches.per_round)

    @property
    def round(self) -> int:
        """The round of its next step."""
        return self.session.trainer.step // self.batches.per_round

    def take(self, number: int) -> None:
        """Train on what is left of a round."""
        trainer = self.session.trainer
        stop = min((number + 1) * self.batches.per_round, trainer.recipe.n_steps)
        self.session.train(self.batches.batch(step) for step in range(trainer.step, stop))


def tasks_of(
    dictionaries: Mapping[str, Mapping[str, Any]],
    windows: Sequence[str],
    *,
    root: Path,
    manifest: Mapping[str, Any],
) -> list[Task]:
    """Return a task for each dictionary on each window, with its folder below `root`."""
    return [
        Task.of(
            DictionaryConfig.model_validate(dict(config)),
            Window.parse(window),
            root / name / window,
            manifest,
        )
        for name, config in dictionaries.items()
        for window in windows
    ]


def train_live(
    tasks: Sequence[Task],
    *,
    model: MoeModel,
    shards: Sequence[Path],
    select_stores: Sequence[Path],
    activations: ActivationsConfig,
    batches: BatchesConfig,
    seed: int,
    device: str = "cpu",
) -> list[Dictionary]:
    """Train a dictionary for each task on what `model` computes of `shards`; write their folders.

    Thresholds are set on `select_stores`. Folders appear when all are trained. Raises ValueError as
    `train_dictionary` does.
    """
    opened = [open_stores(select_stores, task.sites) for task in tasks]
    sites = tuple(dict.fromkeys(site for task in tasks for site in task.sites))
    _share_threads(model.device, device)
    pool = Pool(
        model,
        ShuffledText(shards, seed=seed),
        sites,
        device=device,
        buffer_tokens=batches.buffer_tokens,
        batch_sequences=activations.batch_sequences,
        norm_outlier=activations.norm_outlier,
        seed=seed,
    )
    source = batches.model_dump(mode="json")
    with pool, pupils_of(tasks, pool, source=source, seed=seed) as pupils:
        _train(pupils, pool)
    for pupil in pupils:
        pupil.session.keep()  # a kill below must not cost a training that is over
    trained = [
        finish(p.task, p.session, p.dictionary, s) for p, s in zip(pupils, opened, strict=True)
    ]
    for pupil in pupils:
        remove(pupil.session.checkpoints.path)
    return trained


@contextmanager
def pupils_of(
    tasks: Sequence[Task], pool: Pool, *, source: Any, seed: int
) -> Iterator[list[Pupil]]:
    """Yield a pupil for each task, at its last checkpoint, on the device of the pool.

    `source` is plain data that names the pool, for checkpoints.
    """
    device = str(pool.device)
    with ExitStack() as shown:
        pupils = []
        for task in tasks:
            batch_tokens = task.config.batch_tokens
            batches = LiveBatches(pool, *task.read_and_written, batch_tokens=batch_tokens)
            begun = begin(task, batches, data=source, seed=seed, device=device, shown=shown)
            pupils.append(Pupil(task, batches, *begun))
        yield pupils


def _train(pupils: Sequence[Pupil], pool: Pool) -> None:
    """Have all dictionaries take turns until each has had its tokens."""
    n_rounds = max(pupil.n_rounds for pupil in pupils)
    first = min(pupil.round for pupil in pupils)
    pool.last_round = n_rounds - 1
    logger.info("live: rounds %d to %d of %d tokens", first, n_rounds - 1, pool.chunk_tokens)
    for number in range(first, n_rounds):
        for pupil in pupils:
            pupil.take(number)


def _share_threads(model_device: torch.device, device: str) -> None:
    """Halve the threads of this process where model and dictionaries both compute on CPUs."""
    if model_device.type == device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // 2))
