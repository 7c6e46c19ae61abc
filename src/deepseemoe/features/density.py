"""How often, how strongly and in how many documents each feature fires.

T tokens, F features, nnz activations.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from deepseemoe.features.text import FeatureText, Runs


def measure_density(text: FeatureText) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of density.parquet, each (F,); features that never fire have zeros."""
    runs = text.runs
    n_active = np.diff(runs.starts)
    total = _over_runs(np.add, runs, runs.values.astype(np.float64))
    return {
        "feature": np.arange(text.d_dict),
        "n_active": n_active,
        "density": n_active / max(int(text.is_valid.sum()), 1),
        "mean_activation": total / np.maximum(n_active, 1),
        "max_activation": _over_runs(np.maximum, runs, runs.values.astype(np.float64)),
        "n_documents": _n_documents(text),
    }


def _n_documents(text: FeatureText) -> npt.NDArray[np.integer]:
    """Return (F,): documents of each feature. Documents are contiguous, so changes are counted."""
    documents = text.doc_ids[text.runs.places]
    is_new = np.ones(len(documents), bool)
    is_new[1:] = documents[1:] != documents[:-1]
    starts = text.runs.starts[:-1]
    is_new[starts[starts < len(is_new)]] = True
    return _over_runs(np.add, text.runs, is_new.astype(np.int64))


def _over_runs(
    reduce: np.ufunc, runs: Runs, values: npt.NDArray[np.number]
) -> npt.NDArray[np.number]:
    """Return (F,): `values` (nnz,) reduced over each feature; 0 where it never fires."""
    fires = np.diff(runs.starts) > 0
    result = np.zeros(len(fires), values.dtype)
    if fires.any():
        result[fires] = reduce.reduceat(values, runs.starts[:-1][fires])
    return result
