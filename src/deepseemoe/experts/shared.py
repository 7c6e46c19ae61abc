"""What shared experts do though they see every token: where their output is large, what it holds.

No router chooses them, so there is nothing to predict. What sets them apart is measured while
map_writes runs the model, since no store holds the parts of a block: on each token the norm of
their output over the sum of both norms, theirs and that of the routed experts' sum, both before any
norm after the block. And on features, the contrast that `contributions` takes of routed experts.

Models compute the shared experts of a layer as one, so they are one here.

Axes: T valid tokens of a batch, D d_model, F features, K top_k.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from deepseemoe.experts.contributions import LayerContributions, contrast
from deepseemoe.experts.schemas import SHARED
from deepseemoe.experts.statistics import clustered_interval
from deepseemoe.runtime.tables import TableWriter


class SharedOutput:
    """Sums of one layer; `features` (F,) are those of the directions (F, D), or none."""

    def __init__(self, layer: int, features: np.ndarray, directions_FD: Tensor | None):
        self._layer, self._features = layer, features
        self._parts: dict[str, list[np.ndarray]] = {"document": [], "token": []}
        self._written = None if directions_FD is None else LayerContributions(directions_FD, 1)

    @torch.inference_mode()
    def add(
        self,
        document_T: np.ndarray,
        token_T: np.ndarray,
        features_TF: sp.csr_array,
        *,
        shared_TD: Tensor,
        routed_TD: Tensor,
        written_TD: Tensor,
    ) -> None:
        """Add tokens in text order; `written_TD` is what the shared experts add to the residual."""
        shared_T, routed_T = (
            torch.linalg.vector_norm(x.float(), dim=1).cpu().double().numpy()
            for x in (shared_TD, routed_TD)
        )
        part_T = shared_T / np.maximum(shared_T + routed_T, np.finfo(float).tiny)
        for kind, item_T in (("document", document_T), ("token", token_T)):
            self._parts[kind].append(_sums(item_T, np.ones(part_T.size), part_T, part_T**2))
        if self._written is not None:
            experts_TK = np.zeros((document_T.size, 1), np.int64)
            self._written.add(document_T, features_TF, written_TD.float()[:, None], experts_TK)

    def columns(self, n_feature_F: np.ndarray, confidence: float) -> dict[str, np.ndarray]:
        """Return the rows of the layer; `n_feature_F` are the tokens on which features fire."""
        kinds = [self._means(kind, confidence) for kind in self._parts]
        if self._written is not None:
            kinds.append(self._contrasts(n_feature_F, confidence))
        rows = {name: np.concatenate([kind[name] for kind in kinds]) for name in kinds[0]}
        return {"layer": np.full(rows["item"].size, self._layer), **rows}

    def _means(self, kind: str, confidence: float) -> dict[str, np.ndarray]:
        rows = np.concatenate([np.zeros((0, 4)), *self._parts[kind]])
        item, n, total, squares = _sums(rows[:, 0], *rows[:, 1:].T).T
        mean = total / n
        around = np.maximum(squares - n * mean**2, 0) / n**2
        n_free = np.where(kind == "document", 1, n)  # a document is what others are measured by
        low, high = clustered_interval(mean, around, n_free, confidence)
        return _rows(kind, item, n, mean, low, high)

    def _contrasts(self, n_feature_F: np.ndarray, confidence: float) -> dict[str, np.ndarray]:
        assert self._written is not None
        found = contrast(self._written.finish(), confidence)
        value = (found.mean_on - found.mean_off)[:, 0]
        is_there = self._written.directions_FD.any(1) & np.isfinite(value)
        columns = self._features, n_feature_F, value, found.low[:, 0], found.high[:, 0]
        return _rows("feature", *(column[is_there] for column in columns))


def write_shared(path: Path, columns: Sequence[dict[str, Any]], manifest: dict[str, Any]) -> None:
    """Write the table of all layers; it has no rows where the model has no shared experts."""
    with TableWriter(path, SHARED, manifest) as table:
        for part in columns:
            table.write(part)


def _sums(item: np.ndarray, *values: np.ndarray) -> np.ndarray:
    """Return items in order with the sums of each value, (items, 1 + values)."""
    items, place = np.unique(item, return_inverse=True)
    return np.stack([items, *(np.bincount(place, v, items.size) for v in values)], axis=1)


def _rows(
    kind: str,
    item: np.ndarray,
    n_tokens: np.ndarray,
    value: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> dict[str, np.ndarray]:
    return {
        "kind": np.full(item.size, kind, object),
        "item": item.astype(np.int64),
        "n_tokens": n_tokens.astype(np.int64),
        "value": value,
        "lo": low,
        "hi": high,
    }
