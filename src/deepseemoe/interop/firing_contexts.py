"""Contexts in which features fire, read from examples.parquet a batch of features at a time."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

COLUMNS = ("feature", "group", "doc_id", "place", "peak", "tokens", "activations")
ROWS = 2048
"""Contexts that are decoded at once."""
DIGITS = 4
"""Significant digits of an activation."""
FIRING = re.compile(r"top|q\d+")
"""Groups in whose contexts the feature fires; of near misses and the like it is off."""


class Context(NamedTuple):
    """One context in which a feature fires."""

    feature: int
    group: str
    doc_id: int
    place: int
    peak: float
    tokens: list[str]
    values: list[float]


def context_batches(examples: Path, n_features: int) -> Iterator[tuple[int, list[Context]]]:
    """Yield batch numbers, rising, and the contexts of features n * n_features and following.

    Batches without a context are left out. Raises ValueError where the table is not sorted.
    """
    number, held = -1, []
    for context in _contexts(examples):
        own = context.feature // n_features
        if own < number:
            raise ValueError(f"{examples}: not sorted by feature; run collect_examples again")
        if own > number and held:
            yield number, held
        if own > number:
            number, held = own, []
        held.append(context)
    if held:
        yield number, held


def _contexts(examples: Path) -> Iterator[Context]:
    """Yield contexts in which features fire; one that was drawn twice comes once."""
    last, seen = -1, set[int]()
    with pq.ParquetFile(examples) as file:
        for part in file.iter_batches(batch_size=ROWS, columns=list(COLUMNS)):
            columns = part.to_pydict()
            for feature, group, doc_id, place, peak, tokens, activations in zip(
                *(columns[name] for name in COLUMNS), strict=True
            ):
                if feature != last:
                    last, seen = feature, set()
                if FIRING.fullmatch(group) and place not in seen:
                    seen.add(place)
                    values = [short(value) for value in activations]
                    yield Context(feature, group, doc_id, place, values[peak], tokens, values)


def short(value: float) -> float:
    """Return a number with few digits, which are most of the size of a text file."""
    return float(f"{value:.{DIGITS}g}") if value else 0.0
