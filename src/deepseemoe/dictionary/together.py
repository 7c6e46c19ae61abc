"""Several dictionaries from one pass over the stores.

Dictionaries with the same batch_tokens see the same batches, whatever their windows, kinds, widths
and starts: the order of text follows the run's seed. So every chunk is read, checked and normalised
once, with all sites that any of them wants, and each takes its columns. Their bytes are those of
`train.train_dictionary`, which trains one alone; so are their checkpoints.

Axes: T tokens, D d_model, L sites of all dictionaries, C columns of one.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from deepseemoe.dictionary.batches import (
    Batch,
    CachedBatches,
    Sites,
    open_stores,
    prefetched,
)
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.pupils import Pupil, finish_all, pupils_of
from deepseemoe.dictionary.train import Task

logger = logging.getLogger(__name__)


class Slice:
    """The batches of one dictionary, as columns of batches with the sites of several."""

    def __init__(self, whole: CachedBatches, read: Sequence[str], written: Sequence[str]) -> None:
        """`read` and `written` are among the sites of `whole`."""
        self.reads, self.writes = whole.reads.only(read), whole.reads.only(written)
        self._whole = whole
        self._reading, self._writing = (
            [whole.reads.names.index(name) for name in names] for names in (read, written)
        )

    def of(self, whole: Batch) -> Batch:
        """Return this dictionary's share of a batch of all sites."""
        rows_TLD = whole.inputs_TC.view(len(whole.inputs_TC), -1, self.reads.d_model)
        inputs_TC = _columns(rows_TLD, self._reading)
        if self._writing == self._reading:
            return Batch(inputs_TC, inputs_TC)
        return Batch(inputs_TC, _columns(rows_TLD, self._writing))

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""
        return self.of(self._whole.batch(step))


def train_together(
    tasks: Sequence[Task],
    *,
    stores: Sequence[Path],
    select_stores: Sequence[Path],
    seed: int,
    device: str = "cpu",
    rank: int = 0,
    n_ranks: int = 1,
) -> list[Dictionary]:
    """Train a dictionary for each task from one pass over `stores`, and write their folders.

    Folders appear when all are trained. Raises ValueError as `train.train_dictionary` does, and
    where tasks differ in batch_tokens. With several ranks (`launch`) this is one of them.
    """
    sites = tuple(dict.fromkeys(site for task in tasks for site in task.sites))
    train = open_stores(stores, sites)
    select = [open_stores(select_stores, task.sites) for task in tasks]
    all_sites = Sites.of(train, sites)
    batch_tokens = batch_tokens_of(tasks)
    whole = CachedBatches(
        train, reads=all_sites, writes=all_sites, batch_tokens=batch_tokens, seed=seed
    )
    with pupils_of(
        tasks,
        lambda task: Slice(whole, *task.read_and_written),
        data=[store.manifest for store in train],
        seed=seed,
        device=device,
        rank=rank,
        n_ranks=n_ranks,
    ) as pupils:
        teach(pupils, whole, device)
    return finish_all(pupils, select, device)


def teach(pupils: Sequence[Pupil], whole: CachedBatches, device: str) -> None:
    """Give each batch to all dictionaries that are at it, until each has taken its steps.

    Batches count from the first step that the job takes.
    """
    first = min(pupil.step - pupil.steps.start for pupil in pupils)
    last = max(len(pupil.steps) for pupil in pupils)
    logger.info("%d dictionaries together: batches %d to %d", len(pupils), first, last - 1)
    for index, batch in enumerate(prefetched(whole, first, last), start=first):
        there = batch.to(device)
        for pupil in pupils:
            if index < len(pupil.steps) and pupil.step == pupil.steps[index]:
                pupil.session.train([pupil.batches.of(there)])
                if index + 1 == len(pupil.steps) < last:
                    pupil.session.keep()  # the others go on, and may be killed


def batch_tokens_of(tasks: Sequence[Task]) -> int:
    """Return the tokens of a batch of all tasks."""
    found = {task.config.batch_tokens: task.name for task in tasks}
    if len(found) > 1:
        told = ", ".join(f"{name} has {n_tokens}" for n_tokens, name in found.items())
        raise ValueError(f"dictionaries that train together share batch_tokens; {told}")
    return next(iter(found))


def _columns(rows_TLD: Tensor, places: Sequence[int]) -> Tensor:
    """Return some sites side by side, (T, C); without a copy where that is all of them."""
    if [*places] == [*range(rows_TLD.shape[1])]:
        return rows_TLD.flatten(1)
    return rows_TLD[:, [*places]].flatten(1)
