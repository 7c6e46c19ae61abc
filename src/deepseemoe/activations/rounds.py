"""The stores of rounds of the train split, which come and go."""

import logging
from pathlib import Path

from deepseemoe.config.rounds import N_ON_DISK, round_name
from deepseemoe.runtime.files import remove

logger = logging.getLogger(__name__)


def remove_others(folder: Path, *, number: int) -> None:
    """Remove what is in `folder` of rounds that have no place on the disk beside round `number`.

    Its neighbours stay: the round before is trained on, and the next may be captured already.
    Earlier ones are those in whose last moment Snakemake was killed, later ones those of a training
    that was given up for the one that begins again; without this the bound on the disk would hold
    for neither. Snakemake makes later ones again, for they wait for what this round leads to.
    """
    if not folder.is_dir():
        return
    kept = {round_name(number + step) for step in range(1 - N_ON_DISK, N_ON_DISK)}
    for path in sorted(folder.iterdir()):
        if path.name.split(".")[0] not in kept:
            logger.info("removing %s, which no training is to read", path)
            remove(path)
