"""Worlds as shards that stages read, held in memory: features, and stores of permuted rows.

Each document opens with a row that is not valid, as position 0 is, and whose routing would spoil
every count if it were used. Shards are cut anywhere, so documents go on from one into the next.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from deepseemoe.trust.world import World


class HeldArray(NamedTuple):
    """What `store[name]` gives."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, and what is beside them."""
        return self.values.shape

    def whole(self) -> np.ndarray:
        """Return all rows."""
        return self.values

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return some rows."""
        return self.values[rows]


class HeldStore:
    """As an `ActivationStore`: one row a token, permuted, with the way back."""

    def __init__(self, arrays: dict[str, np.ndarray], seed: int):
        self.n_tokens = arrays["token_id"].size
        self.manifest = {"model": "planted"}
        self._rows = np.random.default_rng(seed).permutation(self.n_tokens)
        self._arrays = {name: values[self._rows] for name, values in arrays.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays."""
        return tuple(sorted(self._arrays))

    def __getitem__(self, name: str) -> HeldArray:
        return HeldArray(self._arrays[name])

    def text_order(self) -> np.ndarray:
        """Return the row of each place in the text."""
        return np.argsort(self._rows)

    def valid_rows(self) -> np.ndarray:
        """Return which rows are valid."""
        return self._arrays["is_valid"].astype(bool)


class HeldFeatures(NamedTuple):
    """As a `FeatureShard`: sparse rows in text order."""

    features_TF: sp.csr_array
    doc_ids: np.ndarray
    is_valid: np.ndarray
    token_ids: np.ndarray
    positions: np.ndarray

    @property
    def n_tokens(self) -> int:
        """Rows."""
        return self.features_TF.shape[0]

    @property
    def d_dict(self) -> int:
        """Features."""
        return self.features_TF.shape[1]

    @property
    def manifest(self) -> dict:
        """What the shard was made of."""
        return {"model": "planted"}

    @property
    def n_active(self) -> int:
        """How many activations there are."""
        return self.features_TF.nnz

    def matrix(self) -> sp.csr_array:
        """Return activations (T, F)."""
        return self.features_TF


class Shards(NamedTuple):
    """The shards of a world."""

    features: list[Callable[[], HeldFeatures]]
    stores: list[HeldStore]


def shards(
    world: World,
    n_shards: int = 1,
    *,
    layers: Sequence[int] = (1,),
    router_logits: bool = False,
) -> Shards:
    """Return a world in shards; the routing of its place l is stored as that of `layers[l]`."""
    opens = np.flatnonzero(np.diff(world.document_T, prepend=-1))
    at = np.insert(np.arange(world.document_T.size), opens, -1)  # row of the world, -1 opens one
    is_valid = at >= 0
    row = np.where(is_valid, at, np.append(at[1:], 0))
    doc_ids = (world.document_T[row] + 100).astype(np.uint32)
    first = np.maximum.accumulate(np.where(is_valid, 0, np.arange(at.size)))
    arrays = {
        "token_id": world.token_T[row].astype(np.uint32),
        "doc_id": doc_ids,
        "position": (np.arange(at.size) - first).astype(np.uint32),
        "is_valid": is_valid.astype(np.uint8),
    }
    for place, layer in enumerate(layers):
        ids, weights = world.experts_TLK[row, place], world.weights_TLK[row, place]
        arrays[f"expert_ids/L{layer:02d}"] = np.where(is_valid[:, None], ids, 0).astype(ids.dtype)
        arrays[f"expert_weights/L{layer:02d}"] = weights
        if router_logits:
            logits_TE = world.scores(world.residual_TM, place) - world.bias_LE[place]
            arrays[f"router_logits/L{layer:02d}"] = logits_TE[row].astype(np.float32)
    silent = sp.diags_array(is_valid.astype(np.float32))
    features = (silent @ world.features_TF[row]).tocsr()
    features.eliminate_zeros()
    edges = np.linspace(0, at.size, n_shards + 1).astype(int)
    parts = [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return Shards(
        [partial(HeldFeatures, features[part], doc_ids[part], is_valid[part],
                 arrays["token_id"][part], arrays["position"][part]) for part in parts],
        [HeldStore({name: values[part] for name, values in arrays.items()}, number)
         for number, part in enumerate(parts)],
    )  # fmt: skip
