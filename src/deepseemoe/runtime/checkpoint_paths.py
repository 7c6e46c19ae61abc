"""Where checkpoints of training stand: beside the folder that the training will write.

Standard library only: every job asks for it.
"""

from pathlib import Path

from deepseemoe.runtime.files import remove


def checkpoint_path(folder: Path) -> Path:
    """Return where the checkpoint of the training that makes `folder` stands: beside it."""
    return folder.with_name(folder.name + ".checkpoint")


def shards_path(checkpoint: Path) -> Path:
    """Return the folder of shards that stands for a checkpoint of one file."""
    return checkpoint.with_name(checkpoint.name + "-shards")


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, whether one process wrote it or several."""
    remove(path)
    remove(shards_path(path))
