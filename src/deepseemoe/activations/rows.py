"""Rows that are given to a store: whether they fit its arrays, and as tensors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deepseemoe.activations.layout import ArraySpec
from deepseemoe.activations.tensors import tensor_type

Rows = Mapping[str, Tensor | NDArray[Any]]
"""Rows of each array, as many in each."""


def problems_of(rows: Rows, arrays: Mapping[str, ArraySpec]) -> list[str]:
    """Return all that does not fit `arrays`: their names, shapes and types.

    numpy's rows are of the stored type, and tensors of any type that the stored one is made of.
    """
    odd = sorted(rows.keys() ^ arrays.keys())
    if odd:
        return [f"arrays {odd} are not both given and in the store"]
    n_rows = len(next(iter(rows.values())))
    problems = []
    for name, spec in arrays.items():
        values, shape = rows[name], (n_rows, *spec.row_shape)
        if tuple(values.shape) != shape or not _is_of_type(values, spec):
            found = f"{values.dtype} {tuple(values.shape)}"
            problems.append(f"{name} is {found}, expected {spec.dtype} {shape}")
    return problems


def _is_of_type(values: Tensor | NDArray[Any], spec: ArraySpec) -> bool:
    if isinstance(values, Tensor):
        return values.is_floating_point() == tensor_type(spec).is_floating_point
    return values.dtype == np.dtype(spec.dtype)
