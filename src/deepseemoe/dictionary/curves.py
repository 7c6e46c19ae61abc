"""The training table, and its mirror in wandb where the configuration names a project.

A row covers the steps since the last one: losses, FVU and L0 are over all tokens of those steps
(FVU is a ratio of sums, never a mean of ratios); the other columns are as the last step left them.
No clock goes into the table: the same run gives the same bytes.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from deepseemoe.dictionary.trainer import StepReport
from deepseemoe.runtime.tables import Column, write_table

COLUMNS = (
    Column("step", pa.int64(), "steps", "batches trained on"),
    Column("n_tokens", pa.int64(), "tokens", "tokens trained on"),
    Column("loss", pa.float64(), "1", "mean squared error in normalised units, and AuxK's share"),
    Column("fvu", pa.float64(), "1", "squared error over squared norm of centred targets"),
    Column("l0", pa.float64(), "features", "active features of a token"),
    Column("dead_fraction", pa.float64(), "1", "features silent for dead_tokens or longer"),
    Column("auxk_loss", pa.float64(), "1", "AuxK's loss before its weight"),
    Column("learning_rate", pa.float64(), "1", "of the last step"),
    Column("threshold", pa.float64(), "1", "smallest weighted activation of the last step"),
)

Mirror = Callable[[Mapping[str, float]], None]
"""What rows are also shown to."""

SUMMED = ("loss", "auxk_loss", "squared_error", "squared_target", "n_active", "n_tokens")


class Curves:
    """Rows of the training table; `state` and `rows` are plain data, for checkpoints."""

    def __init__(self, log: Mapping[str, Any] | None = None) -> None:
        self.rows: list[dict[str, float]] = list(log["rows"]) if log else []
        self._sums: dict[str, float] = dict(log["sums"]) if log else dict.fromkeys(SUMMED, 0.0)
        self._n_steps: int = log["n_steps"] if log else 0

    def add(self, report: StepReport) -> None:
        """Take in one step."""
        for name in SUMMED:
            self._sums[name] += getattr(report, name)
        self._n_steps += 1

    def close_row(self, *, step: int, n_tokens: int, **last: float) -> dict[str, float]:
        """End a row after `step` steps, with the values of the last step, and return it."""
        sums, n_steps = self._sums, self._n_steps
        self._sums, self._n_steps = dict.fromkeys(SUMMED, 0.0), 0
        row = {
            "step": step,
            "n_tokens": n_tokens,
            "loss": sums["loss"] / n_steps,
            "fvu": sums["squared_error"] / sums["squared_target"],
            "l0": sums["n_active"] / sums["n_tokens"],
            "auxk_loss": sums["auxk_loss"] / n_steps,
            **last,
        }
        self.rows.append(row)
        return row

    def state(self) -> dict[str, Any]:
        """Return the rows, and the sums of the row that is open."""
        return {"rows": self.rows, "sums": self._sums, "n_steps": self._n_steps}

    def write(self, path: Path, manifest: Mapping[str, Any]) -> None:
        """Write training.parquet."""
        write_table(path, COLUMNS, self.rows, manifest)


@contextmanager
def mirror(project: str | None, name: str, config: Mapping[str, Any]) -> Iterator[Mirror]:
    """Yield a function that shows rows in a wandb project, or nowhere where none is named.

    WANDB_MODE=offline keeps them on disk. Raises ValueError where wandb is not installed.
    """
    if not project:
        yield lambda row: None
        return
    try:
        import wandb  # optional: only runs that name a project need it
    except ImportError:
        raise ValueError(
            f"wandb_project is {project!r}, but wandb is not installed; run `pip install wandb` or "
            "leave wandb_project empty"
        ) from None
    run = wandb.init(project=project, name=name, config=dict(config))
    try:
        yield lambda row: run.log(dict(row), step=int(row["step"]))
    finally:
        run.finish()
