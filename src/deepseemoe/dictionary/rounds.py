"""Training on stores that come and go: a job for each round of the train split.

A round's stores hold some shards of the split. Its job goes on from the checkpoint that the job
before left, takes the round's share of the steps, over and over the same text where that share is
more than one epoch, and leaves a checkpoint in turn; the last job leaves the dictionaries. One
round of all shards gives the bytes of `together.train_together`.

How sites are normalised is measured on the first round and handed on with the checkpoints.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepseemoe.config.rounds import Round
from deepseemoe.dictionary.batches import CachedBatches, Sites, open_stores
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.dictionary.pupils import Pupil, finish_all, pupils_of
from deepseemoe.dictionary.together import Slice, batch_tokens_of, teach
from deepseemoe.dictionary.train import Leg, Task
from deepseemoe.runtime.files import commit, partial_path, remove

CHECKPOINT, NORMALISATION = "checkpoint", "normalisation.safetensors"


class Place(NamedTuple):
    """Where a training on rounds stands: its round, and what the round before left of each task."""

    round: Round
    before: tuple[Path, ...] = ()
    """A folder of each task, in their order; none in the first round."""

    def leg(self, index: int) -> Leg:
        """Return the part of a task's training that is done on the round."""
        return Leg(self.round.steps, self.before[index] / CHECKPOINT if self.before else None)


def train_round(
    tasks: Sequence[Task],
    *,
    stores: Sequence[Path],
    place: Place,
    kept: Sequence[Path],
    seed: int,
    device: str = "cpu",
    rank: int = 0,
    n_ranks: int = 1,
) -> None:
    """Train on the stores of a round that is not the last; leave a folder of `kept` for each task.

    Raises ValueError as `together.train_together` does, and where the folders of the round before
    are of another training. With several ranks (`launch`) this is one of them.
    """
    where = {"device": device, "rank": rank, "n_ranks": n_ranks}
    with _taught(tasks, stores, place, seed=seed, **where) as pupils:
        for pupil, folder in zip(pupils, kept, strict=True):
            _leave(pupil, folder)
        for pupil in pupils:  # a kill above must not cost the round of those that have left
            if pupil.session.trainer.ranks.rank == 0:
                pupil.session.checkpoints.clear()


def finish_rounds(
    tasks: Sequence[Task],
    *,
    stores: Sequence[Path],
    place: Place,
    select_stores: Sequence[Path],
    seed: int,
    device: str = "cpu",
    rank: int = 0,
    n_ranks: int = 1,
) -> list[Dictionary]:
    """Train on the stores of the last round; return and write what `train_together` does."""
    select = [open_stores(select_stores, task.sites) for task in tasks]
    where = {"device": device, "rank": rank, "n_ranks": n_ranks}
    with _taught(tasks, stores, place, seed=seed, **where) as pupils:
        pass
    return finish_all(pupils, select, device)


@contextmanager
def _taught(
    tasks: Sequence[Task], paths: Sequence[Path], place: Place, *, seed: int, **where: Any
) -> Iterator[list[Pupil]]:
    """Yield a pupil for each task, that has taken its steps on the round."""
    names = tuple(dict.fromkeys(site for task in tasks for site in task.sites))
    stores = open_stores(paths, names)
    sites = Sites(names, _handed_on(place.before, names) or Normalisation.of(stores, names))
    options = {"batch_tokens": batch_tokens_of(tasks), "seed": seed}
    whole = CachedBatches(stores, reads=sites, writes=sites, **options)
    # Tasks hold a dict, so they are looked for by place.
    legs = {task.folder: place.leg(index) for index, task in enumerate(tasks)}
    with pupils_of(
        tasks,
        lambda task: Slice(whole, *task.read_and_written),
        leg_of=lambda task: legs[task.folder],
        data=[place.round.n_shards],
        seed=seed,
        **where,
    ) as pupils:
        teach(pupils, whole, where["device"])
        yield pupils


def _leave(pupil: Pupil, folder: Path) -> None:
    """Write what the next round begins with to `folder`, whole or not at all; all ranks call it."""
    session, partial = pupil.session, partial_path(folder)
    ranks = session.trainer.ranks
    if ranks.rank == 0:
        remove(partial)
        partial.mkdir(parents=True)
    ranks.wait()
    session.checkpoints._replace(path=partial / CHECKPOINT).write(session.trainer, session.curves)
    if ranks.rank == 0:
        _hand_on(partial / NORMALISATION, pupil)
        commit(partial, folder)
    ranks.wait()


def _hand_on(path: Path, pupil: Pupil) -> None:
    """Write how each site of a pupil is normalised."""
    tensors = {}
    for sites in (pupil.batches.reads, pupil.batches.writes):
        for name, mean_D, scale in zip(sites.names, *sites.normalisation, strict=True):
            tensors |= {f"{name}/mean": mean_D.clone(), f"{name}/scale": scale.clone()}
    save_file(tensors, path)


def _handed_on(folders: Sequence[Path], names: Sequence[str]) -> Normalisation | None:
    """Return how sites were normalised in the rounds before; None in the first round."""
    if not folders:
        return None
    found: dict[str, Tensor] = {}
    for folder in folders:
        try:
            found |= load_file(folder / NORMALISATION)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{folder}: not what a round leaves ({error}); delete the folder, and run again"
            ) from None
    means, scales = ([found[f"{name}/{part}"] for name in names] for part in ("mean", "scale"))
    return Normalisation(torch.stack(means), torch.stack(scales))
