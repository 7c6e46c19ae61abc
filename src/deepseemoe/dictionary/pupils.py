"""Several dictionaries trained by one job: their tasks, and how they begin and end together.

What lies between differs: from stores they take each batch at the same time (`together`), from a
running model they take turns (`live`). Each keeps checkpoints of its own, as where it is trained
alone, and they may stand at different steps: whoever is ahead waits for the others.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config import DictionaryConfig
from deepseemoe.dictionary.batches import Batches
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.session import Session
from deepseemoe.dictionary.train import WHOLE, Leg, Task, begin, finish
from deepseemoe.names import Window
from deepseemoe.runtime.memory import free_bytes


class Pupil(NamedTuple):
    """A dictionary, its task, its batches, and its training."""

    task: Task
    batches: Batches
    session: Session
    dictionary: Dictionary

    @property
    def step(self) -> int:
        """The step that it takes next."""
        return self.session.trainer.step

    @property
    def n_steps(self) -> int:
        """All steps of its training."""
        return self.session.trainer.recipe.n_steps

    @property
    def steps(self) -> range:
        """The steps that this job takes."""
        return self.session.checkpoints.steps


def tasks_of(
    members: Sequence[tuple[str, str]],
    dictionaries: Mapping[str, Mapping[str, Any]],
    *,
    root: Path,
    manifest: Mapping[str, Any],
) -> list[Task]:
    """Return a task for each name and window of `members`, with its folder below `root`.

    `dictionaries` are the configurations of all names, as plain data.
    """
    return [
        Task.of(
            DictionaryConfig.model_validate(dict(dictionaries[name])),
            Window.parse(window),
            root / name / window,
            manifest,
        )
        for name, window in members
    ]


@contextmanager
def pupils_of(
    tasks: Sequence[Task],
    batches_of: Callable[[Task], Batches],
    leg_of: Callable[[Task], Leg] = lambda task: WHOLE,
    **options: Any,
) -> Iterator[list[Pupil]]:
    """Yield a pupil for each task, at its last checkpoint; `options` are those of `train.begin`."""
    with ExitStack() as shown:
        pupils = []
        for task in tasks:
            batches = batches_of(task)
            begun = begin(task, batches, shown=shown, leg=leg_of(task), **options)
            pupils.append(Pupil(task, batches, *begun))
        yield pupils


def finish_all(
    pupils: Sequence[Pupil], select: Sequence[Sequence[ActivationStore]], device: str
) -> list[Dictionary]:
    """Write the folders of pupils that have learned; `select` are the stores of each.

    Checkpoints are kept until all folders are there. Of several ranks all call it, and the first
    writes; the others return nothing.
    """
    for pupil in pupils:
        pupil.session.keep()  # a kill below must not cost a training that is over
    trained = []
    for pupil, stores in zip(pupils, select, strict=True):
        dictionary = _collected(pupil.session, pupil.dictionary, device)
        if pupil.session.trainer.ranks.rank == 0:
            trained.append(finish(pupil.task, pupil.session, dictionary, stores))
    if trained:
        for pupil in pupils:
            pupil.session.checkpoints.clear()
    return trained


def _collected(session: Session, dictionary: Dictionary, device: str) -> Dictionary:
    """Return the dictionary with what all ranks trained; all call it, and rank 0 gets it.

    On `device`, where there is room.
    """
    shard = session.checkpoints.shard
    if shard.n_ranks == 1:
        return dictionary
    from deepseemoe.dictionary.spread import gather  # DTensor takes seconds to import

    mine = dictionary.weights.cut(dictionary.parts, shard.whole).tensors()
    for tensor, whole in zip(mine, gather(session.trainer.weights, shard), strict=True):
        if shard.rank == 0:
            tensor.copy_(whole)
    session.trainer.ranks.wait()
    n_bytes = 4 * sum(tensor.numel() for tensor in dictionary.weights.tensors())
    has_room = shard.rank == 0 and free_bytes(device) > 2 * n_bytes
    return dictionary.to(device) if has_room else dictionary
