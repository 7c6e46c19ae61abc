"""The tokens that probes are fitted, chosen and tested on: whole documents, in three parts.

Documents of the test split stand in the order of a hash of their id and the seed. The first of
them, up to a number of tokens, are the sample; of these, the first half fits, the next fifth
chooses penalties and smoothing, the rest is tested. No document is in two parts.

Axes: T tokens of the sample, D its documents, L routing layers, E experts, K top_k, F features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from deepseemoe.experts.documents import ShardSource
from deepseemoe.experts.join import Join
from deepseemoe.runtime.seeds import seed_for

FIT, CHOOSE, TEST = 0, 1, 2
SHARES = (0.5, 0.7)
"""Where the documents for fitting end, and those for choosing."""
NO_TOKEN = -1
"""The token before the first of a segment."""


class Sample(NamedTuple):
    """What probes read of each token, in text order, and what routers chose there."""

    documents_T: np.ndarray
    """Numbers from 0, rising."""
    part_D: np.ndarray
    """FIT, CHOOSE or TEST."""
    token_ids_T: np.ndarray
    before_T: np.ndarray
    """The token before it in its segment, or NO_TOKEN."""
    features_TF: sp.csr_array
    experts_TLK: np.ndarray
    n_experts: int

    @property
    def n_documents(self) -> int:
        """How many there are."""
        return self.part_D.size

    def rows(self, part: int) -> np.ndarray:
        """Return the places of the tokens of a part."""
        return np.flatnonzero(self.part_D[self.documents_T] == part)

    def chosen(self, place: int) -> np.ndarray:
        """Return 1 where a token chose an expert of the layer at `place`, float32 (T, E)."""
        chosen_TE = np.zeros((self.documents_T.size, self.n_experts), np.float32)
        np.put_along_axis(chosen_TE, self.experts_TLK[:, place].astype(np.int64), 1, axis=1)
        return chosen_TE


class Drawn(NamedTuple):
    """A sample, and where its tokens stand in the text of each shard (one array a shard)."""

    sample: Sample
    places: tuple[np.ndarray, ...]


def draw(joined: Join, sources: Sequence[ShardSource], *, n_tokens: int, seed: int) -> Drawn:
    """Return whole documents of a join, until they hold `n_tokens` tokens.

    `sources` are the feature shards that were joined, in the same order.
    """
    token_ids, before, doc_ids, places, last = [], [], [], [], NO_TOKEN
    for source in sources:
        shard = source()
        ids = shard.token_ids.astype(np.int64)
        previous = np.where(shard.positions == 0, NO_TOKEN, np.append(last, ids[:-1]))
        last = ids[-1]
        token_ids.append(ids[shard.is_valid])
        before.append(previous[shard.is_valid])
        doc_ids.append(shard.doc_ids[shard.is_valid])
        places.append(np.flatnonzero(shard.is_valid))
    documents = joined.text.documents
    ids_D = np.concatenate(doc_ids)[documents.starts[:-1]]
    taken_D, part_D = split(ids_D, documents.lengths, n_tokens=n_tokens, seed=seed)
    is_taken_T = np.repeat(taken_D, documents.lengths)
    edges = np.cumsum([0, *map(len, places)])
    pieces = [block.features_TF[is_taken_T[block.start : block.stop]]
              for block in joined.text.blocks()]  # fmt: skip
    sample = Sample(
        np.repeat(np.arange(int(taken_D.sum())), documents.lengths[taken_D]),
        part_D[taken_D],
        np.concatenate(token_ids)[is_taken_T],
        np.concatenate(before)[is_taken_T],
        sp.csr_array(sp.vstack(pieces, format="csr")),
        joined.routing.experts_TLK[is_taken_T],
        joined.routing.n_experts,
    )
    kept = [own[is_taken_T[a:b]] for own, a, b in zip(places, edges, edges[1:], strict=False)]
    return Drawn(sample, tuple(kept))


def split(
    ids_D: np.ndarray, lengths_D: np.ndarray, *, n_tokens: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return which documents are in the sample, and the part of each (meaningless for others)."""
    order = np.argsort(hashed(ids_D, seed), kind="stable")
    before = np.cumsum(lengths_D[order]) - lengths_D[order]
    order = order[before < n_tokens]
    taken_D, part_D = np.zeros(ids_D.size, bool), np.full(ids_D.size, TEST, np.int8)
    taken_D[order] = True
    fit, choose = (round(share * order.size) for share in SHARES)
    part_D[order[:fit]], part_D[order[fit:choose]] = FIT, CHOOSE
    return taken_D, part_D


def hashed(ids: np.ndarray, seed: int) -> np.ndarray:
    """Return 64 bits for each id by splitmix64: the same id and seed, the same bits."""
    with np.errstate(over="ignore"):
        bits = ids.astype(np.uint64) + np.uint64(seed_for(seed, "prediction", "documents"))
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
