"""Do other seeds find the same features? Mean of the best cosine between decoders of two seeds.

Axes: F features, C columns (layers times d_model).
"""

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.runtime.files import write_json

BLOCK = 4096


def measure_stability(
    folders: Mapping[str, Sequence[Sequence[Path]]], *, output: Path
) -> dict[str, float | None]:
    """Write, for each arm, the stability of its dictionaries over seeds; None with one seed.

    `folders[arm]` holds, for each dictionary of the arm, the folders of all its seeds.
    """
    found = {arm: _mean_of(dictionaries) for arm, dictionaries in folders.items()}
    write_json(output, found)
    return found


def _mean_of(dictionaries: Sequence[Sequence[Path]]) -> float | None:
    values = [
        mean_best_cosine(left, right)
        for seeds in dictionaries
        for left, right in permutations([_decoder(folder) for folder in seeds], 2)
    ]
    return float(np.mean(values)) if values else None


def _decoder(folder: Path) -> Tensor:
    """Return decoders in normalised units, (F, C), so that every layer counts the same."""
    dictionary = Dictionary.load(folder)
    return (dictionary.decoder_FLD * dictionary.writing.scale_L[:, None]).flatten(1)


def mean_best_cosine(left_FC: Tensor, right_FC: Tensor) -> float:
    """Return the mean over features of `left` of their highest cosine with one of `right`."""
    left, right = (torch.nn.functional.normalize(part, dim=1) for part in (left_FC, right_FC))
    best = [(block @ right.T).amax(1) for block in left.split(BLOCK)]
    return float(torch.cat(best).double().mean())
