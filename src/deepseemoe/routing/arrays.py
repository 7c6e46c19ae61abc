"""What routing must look like as plain arrays, whoever made it: ids (..., K) of distinct experts.

Axes: T tokens, K top_k, E experts.
"""

from collections.abc import Iterator

import numpy as np

CHUNK_TOKENS = 1 << 16
"""Rows of a dense (T, E) table; float32 counts of so few rows are exact."""


def check_routing(
    ids: np.ndarray, weights: np.ndarray | None = None, *, n_axes: int = 2, name: str = "ids"
) -> None:
    """Raise ValueError where `ids` is no array of experts, or weights do not fit it."""
    axes = "(tokens, top_k)" if n_axes == 2 else "(tokens, layers, top_k)"
    if ids.ndim != n_axes or ids.dtype.kind not in "iu" or not ids.size:
        raise ValueError(
            f"{name}: expected whole numbers of shape {axes}, found {ids.dtype} {ids.shape}"
        )
    if weights is not None and weights.shape != ids.shape:
        raise ValueError(f"weights: expected shape {ids.shape} of {name}, found {weights.shape}")
    if weights is not None and not np.isfinite(weights).all():
        raise ValueError("weights: some are not finite; give the gate weights of chosen experts")


def count_experts(ids: np.ndarray, n_experts: int | None = None) -> int:
    """Return how many experts there are; raise ValueError where `ids` has one beyond `n_experts`.

    Without `n_experts` the highest expert that any token chose is taken for the last.
    """
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or (n_experts is not None and highest >= n_experts):
        raise ValueError(
            f"ids: found experts {lowest} to {highest}, expected 0 to "
            f"{'the last' if n_experts is None else n_experts - 1}"
        )
    return highest + 1 if n_experts is None else n_experts


def check_labels(labels_T: np.ndarray, n_tokens: int, name: str) -> np.ndarray:
    """Return one label of each token; raise ValueError where there are not as many."""
    labels_T = np.asarray(labels_T)
    if labels_T.shape != (n_tokens,):
        raise ValueError(f"{name}: expected one for each of {n_tokens} tokens, found shape "
                         f"{labels_T.shape}")  # fmt: skip
    return labels_T


def chosen_tables(ids_TK: np.ndarray, n_experts: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield runs of tokens, and which experts each chooses as float32 (T, E)."""
    for start in range(0, len(ids_TK), CHUNK_TOKENS):
        part = slice(start, start + CHUNK_TOKENS)
        chunk_TK = ids_TK[part].astype(np.int64)
        chosen_TE = np.zeros((len(chunk_TK), n_experts), np.float32)
        np.put_along_axis(chosen_TE, chunk_TK, 1.0, axis=1)
        yield part, chosen_TE
