"""Sums over documents, from which every endpoint and its interval is computed.

Each endpoint is a mean of ratios of sums over tokens:

    fvu               for each layer: sum |y - ŷ|² over sum |y - mean y|²
    loss_recovered    CE_ablated - CE_spliced over CE_ablated - CE_original
    router_agreement  for each router: experts kept over experts chosen
    routing_f1        for each router, the mean over experts of 2 TP over predicted + chosen

So two sums for each document are all that is kept of an evaluation, and drawing documents again
costs a matrix product.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from deepseemoe.runtime.tables import Column

MODEL = -1
"""The layer under which sums of the whole model stand."""

MAX_UNITS = 400
"""Documents are the units of the bootstrap; where there are more, whole documents share a unit."""

COLUMNS = (
    Column("arm", pa.string(), "", "what codes the window: crosscoder, an arm, or a baseline"),
    Column("endpoint", pa.string(), "", "fvu, loss_recovered, router_agreement or routing_f1"),
    Column("layer", pa.int64(), "layer", "layer or router that the sums are of; -1: the model"),
    Column("item", pa.int64(), "", "expert, for routing_f1; else 0"),
    Column("unit", pa.int64(), "", "document, or group of whole documents"),
    Column("numerator", pa.float64(), "", "of the ratio, over the tokens of the unit"),
    Column("denominator", pa.float64(), "", "of the ratio"),
)


class Key(NamedTuple):
    """Whose ratio it is."""

    arm: str
    endpoint: str
    layer: int
    item: int = 0


def units_of(documents: ArrayLike) -> NDArray[np.int64]:
    """Return the unit of each token from its document."""
    return np.asarray(documents, np.int64) % MAX_UNITS


class Sums:
    """Numerators and denominators by unit, under keys."""

    def __init__(self) -> None:
        self._sums: dict[Key, NDArray[np.float64]] = {}

    def add(
        self,
        key: Key,
        units: NDArray[np.int64],
        numerators: ArrayLike,
        denominators: ArrayLike,
    ) -> None:
        """Take in some tokens: the unit, numerator and denominator of each."""
        both = self._sums.setdefault(key, np.zeros((2, MAX_UNITS)))
        for row, values in zip(both, (numerators, denominators), strict=True):
            weights = np.broadcast_to(np.asarray(values, np.float64), units.shape)
            row += np.bincount(units, weights, MAX_UNITS)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield rows of COLUMNS; a unit without a token has none."""
        for key, both in self._sums.items():
            for unit in np.flatnonzero((both != 0).any(0)):
                numerator, denominator = (float(value) for value in both[:, unit])
                yield key._asdict() | {
                    "unit": int(unit),
                    "numerator": numerator,
                    "denominator": denominator,
                }


def read_sums(columns: dict[str, NDArray[Any]]) -> dict[Key, NDArray[np.float64]]:
    """Return the two sums by unit, (2, MAX_UNITS), under each key of a table's columns."""
    found: dict[Key, NDArray[np.float64]] = {}
    names: Sequence[NDArray[Any]] = [columns[name] for name in ("arm", "endpoint", "layer", "item")]
    for row, (arm, endpoint, layer, item) in enumerate(zip(*names, strict=True)):
        key = Key(str(arm), str(endpoint), int(layer), int(item))
        both = found.setdefault(key, np.zeros((2, MAX_UNITS)))
        both[:, columns["unit"][row]] = columns["numerator"][row], columns["denominator"][row]
    return found
