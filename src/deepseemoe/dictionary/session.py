"""One dictionary in training: its trainer, log, checkpoints and progress, whoever brings batches.

Killed at any point and started again, it goes on from its last checkpoint and ends in the same
bytes, since a batch depends on seed and step only.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from deepseemoe.dictionary.batches import Batch
from deepseemoe.dictionary.curves import Curves, Mirror
from deepseemoe.dictionary.shard_files import Found, find, read_share, write_shards
from deepseemoe.dictionary.shards import Shard
from deepseemoe.dictionary.trainer import StepReport, Trainer
from deepseemoe.runtime.checkpoint_paths import remove_checkpoint, shards_path
from deepseemoe.runtime.checkpoints import write_checkpoint
from deepseemoe.runtime.claim import is_orphan
from deepseemoe.runtime.files import remove
from deepseemoe.runtime.progress import Progress

logger = logging.getLogger(__name__)


class Checkpoints(NamedTuple):
    """Where checkpoints stand, the name of the run they are of, and how often they are made.

    `shard` is what the trainer has of the dictionary: a process alone writes one file, ranks write
    one each, and either reads the other's. `steps` are those that this job takes of the training,
    and `before` is the checkpoint of the job that took those before them.
    """

    path: Path
    run: str
    every_steps: int
    shard: Shard
    steps: range
    before: Path | None = None

    def restore(self, trainer: Trainer) -> Curves:
        """Bring a fresh trainer to the last checkpoint, if there is one, and return the log."""
        found = self._own() or self._before()
        if found is None:
            return Curves()
        state = read_share(found, self.shard, trainer.sizes(self.shard))
        trainer.load_state(state.tensors, state.step)
        logger.info("resumed from %s at step %d", found.files[0], found.step)
        return Curves(state.log)

    def _own(self) -> Found | None:
        """Return the last checkpoint of this job, killed before; None where there is none."""
        found = find(self.path, run=self.run)
        if found is None and self.path.exists():
            logger.info("%s is of another configuration; training starts anew", self.path)
        # One of a later round may be left where earlier ones are made again.
        is_here = found is not None and self.steps.start <= found.step <= self.steps.stop
        return found if is_here else None

    def _before(self) -> Found | None:
        """Return the checkpoint that this job begins with; None at the start of a training."""
        if self.before is None:
            return None
        found = find(self.before, run=self.run)
        if found is None or found.step != self.steps.start:
            raise ValueError(
                f"{self.before}: no checkpoint of this training after step {self.steps.start}; "
                "delete the folder that it is in, and run again"
            )
        return found

    def write(self, trainer: Trainer, curves: Curves) -> None:
        """Write a checkpoint; of several ranks all do."""
        content = {"tensors": trainer.state(), "log": curves.state()}
        if self.shard.n_ranks > 1:
            write_shards(self.path, trainer.ranks, run=self.run, step=trainer.step, **content)
            return
        write_checkpoint(self.path, run=self.run, step=trainer.step, **content)
        remove(shards_path(self.path))

    def clear(self) -> None:
        """Remove what was written; not in an orphan, whose work is asked for again.

        The job that asks removes it, trained anew or found to be made (`runtime.stage`).
        """
        if not is_orphan():
            remove_checkpoint(self.path)


class Session:
    """A training run from its last checkpoint on."""

    def __init__(
        self, trainer: Trainer, checkpoints: Checkpoints, mirror: Mirror, *, name: str, device: str
    ) -> None:
        self.trainer, self.checkpoints = trainer, checkpoints
        self.curves = checkpoints.restore(trainer)
        self._mirror, self._device = mirror, device
        recipe = trainer.recipe
        n_left = (recipe.n_steps - trainer.step) * recipe.batch_tokens
        self._progress = Progress(f"train {name}", n_left)

    def train(self, batches: Iterable[Batch]) -> None:
        """Take one step on each batch; they are those from the trainer's step on."""
        for batch in batches:
            rate = self.trainer.recipe.learning_rate(self.trainer.step)
            report = self.trainer.advance(batch.to(self._device))
            self._log(report, rate)
            n_steps = self.trainer.recipe.n_steps
            is_due = self.trainer.step % self.checkpoints.every_steps == 0
            if is_due and self.trainer.step < n_steps:
                self.keep()

    def keep(self) -> None:
        """Write a checkpoint of where training stands."""
        self.checkpoints.write(self.trainer, self.curves)

    def _log(self, report: StepReport, rate: float) -> None:
        trainer = self.trainer
        self.curves.add(report)
        if trainer.recipe.is_logged(trainer.step):
            row = self.curves.close_row(
                step=trainer.step,
                n_tokens=trainer.step * trainer.recipe.batch_tokens,
                dead_fraction=trainer.dead_fraction(),
                learning_rate=rate,
                threshold=report.threshold,
            )
            self._mirror(row)
        self._progress.advance(
            report.n_tokens,
            loss=report.loss,
            fvu=report.squared_error / report.squared_target,
            l0=report.n_active / report.n_tokens,
            dead_fraction=trainer.own_dead_fraction,  # a clock decides, so no rank may ask others
        )
