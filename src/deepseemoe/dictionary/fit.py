"""The training loop: batches through a trainer, with a log, checkpoints and progress."""

import logging
from pathlib import Path
from typing import NamedTuple

from deepseemoe.dictionary.batches import Batches, prefetched
from deepseemoe.dictionary.curves import Curves, Mirror
from deepseemoe.dictionary.trainer import Trainer
from deepseemoe.runtime.checkpoints import read_checkpoint, write_checkpoint
from deepseemoe.runtime.progress import Progress

logger = logging.getLogger(__name__)


class Checkpoints(NamedTuple):
    """Where checkpoints stand, the name of the run they are of, and how often they are made."""

    path: Path
    run: str
    every_steps: int

    def restore(self, trainer: Trainer) -> Curves:
        """Bring a fresh trainer to the last checkpoint, if there is one, and return the log."""
        found = read_checkpoint(self.path, run=self.run)
        if found is None:
            return Curves()
        trainer.load_state(found.tensors, found.step)
        logger.info("resumed from %s at step %d", self.path, found.step)
        return Curves(found.log)

    def keep(self, trainer: Trainer, curves: Curves) -> None:
        """Write a checkpoint where one is due."""
        if trainer.step % self.every_steps == 0 and trainer.step < trainer.recipe.n_steps:
            write_checkpoint(
                self.path,
                run=self.run,
                step=trainer.step,
                tensors=trainer.state(),
                log=curves.state(),
            )


def fit(
    trainer: Trainer, batches: Batches, *, checkpoints: Checkpoints, mirror: Mirror, device: str
) -> Curves:
    """Train to the end of the recipe, from the last checkpoint on, and return the log."""
    curves = checkpoints.restore(trainer)
    recipe = trainer.recipe
    n_left = (recipe.n_steps - trainer.step) * recipe.batch_tokens
    progress = Progress("train_dictionary", n_left)
    for batch in prefetched(batches, trainer.step, recipe.n_steps):
        rate = recipe.learning_rate(trainer.step)
        report = trainer.advance(batch.to(device))
        curves.add(report)
        if recipe.is_logged(trainer.step):
            row = curves.close_row(
                step=trainer.step,
                n_tokens=trainer.step * recipe.batch_tokens,
                dead_fraction=float(trainer.is_dead_F.float().mean()),
                learning_rate=rate,
                threshold=report.threshold,
            )
            mirror(row)
        checkpoints.keep(trainer, curves)
        fvu = report.squared_error / report.squared_target
        progress.advance(report.n_tokens, loss=report.loss, fvu=fvu)
    return curves
