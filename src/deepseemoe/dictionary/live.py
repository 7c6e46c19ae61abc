"""Training of all dictionaries of a run from one running model, with no store of the train split.

The model fills a pool in a thread of its own, on its own device; the dictionaries take turns on
theirs, a round of the pool each. Every dictionary keeps checkpoints as from stores, and they may
stand at different steps: whoever is ahead waits for the others.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from deepseemoe.activations.pool import Pool
from deepseemoe.activations.shuffled_text import ShuffledText
from deepseemoe.config import ActivationsConfig, BatchesConfig
from deepseemoe.dictionary.batches import open_stores
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.live_batches import LiveBatches
from deepseemoe.dictionary.pupils import Pupil, finish_all, pupils_of
from deepseemoe.dictionary.train import Task
from deepseemoe.model.adapter import MoeModel

logger = logging.getLogger(__name__)


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

    def batches_of(task: Task) -> LiveBatches:
        return LiveBatches(pool, *task.read_and_written, batch_tokens=task.config.batch_tokens)

    source = batches.model_dump(mode="json")
    with (
        pool,
        pupils_of(tasks, batches_of, data=source, seed=seed, device=str(pool.device)) as pupils,
    ):
        _train(pupils, pool)
    return finish_all(pupils, opened, str(pool.device))


def _train(pupils: Sequence[Pupil], pool: Pool) -> None:
    """Have all dictionaries take turns until each has had its tokens."""
    n_rounds = max(-(-pupil.n_steps // pupil.batches.per_round) for pupil in pupils)
    first = min(pupil.step // pupil.batches.per_round for pupil in pupils)
    pool.last_round = n_rounds - 1
    logger.info("live: rounds %d to %d of %d tokens", first, n_rounds - 1, pool.chunk_tokens)
    for number in range(first, n_rounds):
        for pupil in pupils:
            _take(pupil, number)


def _take(pupil: Pupil, number: int) -> None:
    """Train on what is left of a round."""
    stop = min((number + 1) * pupil.batches.per_round, pupil.n_steps)
    pupil.session.train(pupil.batches.batch(step) for step in range(pupil.step, stop))


def _share_threads(model_device: torch.device, device: str) -> None:
    """Halve the threads of this process where model and dictionaries both compute on CPUs."""
    if model_device.type == device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // 2))
