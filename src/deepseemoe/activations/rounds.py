"""The stores of rounds of the train split, which come and go."""

import logging
from pathlib import Path

from deepseemoe.runtime.files import remove

logger = logging.getLogger(__name__)


def remove_consumed(folder: Path, *, last: str | None) -> None:
    """Remove what is in `folder` of the round named `last` and of all before it; None: nothing.

    Snakemake removes a round's stores once they are trained on, but not those of one in whose last
    moment it was killed; without this the bound on the disk would not hold after a kill.
    """
    if last is None or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.split(".")[0] <= last:
            logger.info("removing %s, which is trained on and was left behind", path)
            remove(path)
