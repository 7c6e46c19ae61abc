"""Packing of documents into full sequences, one behind the other.

Axes: T tokens, S sequences, N sequence length.
"""

from collections.abc import Iterator

import numpy as np

from deepseemoe.corpus.shards import TokenShard


class Packer:
    """Collects the documents of one split and gives them out as shards of full sequences.

    A document that reaches the end of a sequence, or of a shard, goes on in the next one. The last
    document of the split is cut at its end.
    """

    def __init__(self, *, n_tokens: int, sequence_length: int, shard_tokens: int):
        self.n_tokens, self.n_packed = n_tokens, 0
        self._sequence_length, self._shard_tokens = sequence_length, shard_tokens
        self._token_ids: list[np.ndarray] = []
        self._doc_ids: list[np.ndarray] = []
        self._n_waiting = 0

    @property
    def is_full(self) -> bool:
        """Whether the split takes no more tokens."""
        return self.n_packed == self.n_tokens

    def add(self, token_ids_T: np.ndarray, doc_id: int) -> int:
        """Take as much of a document as the split has room for; return how many tokens that is."""
        taken_T = token_ids_T[: self.n_tokens - self.n_packed].astype(np.uint32)
        self._token_ids.append(taken_T)
        self._doc_ids.append(np.full(len(taken_T), doc_id, np.uint32))
        self._n_waiting += len(taken_T)
        self.n_packed += len(taken_T)
        return len(taken_T)

    def shards(self) -> Iterator[TokenShard]:
        """Yield the shards that are complete by now; the last one of a split may be shorter."""
        while self._n_waiting >= self._shard_tokens or (self._n_waiting and self.is_full):
            token_ids_T, doc_ids_T = map(np.concatenate, (self._token_ids, self._doc_ids))
            size = min(self._shard_tokens, self._n_waiting)
            self._token_ids, self._doc_ids = [token_ids_T[size:]], [doc_ids_T[size:]]
            self._n_waiting -= size
            yield self._shard(token_ids_T[:size], doc_ids_T[:size])

    def _shard(self, token_ids_T: np.ndarray, doc_ids_T: np.ndarray) -> TokenShard:
        doc_ids_SN = doc_ids_T.reshape(-1, self._sequence_length)  # T = S * N
        return TokenShard(
            token_ids_T.reshape(-1, self._sequence_length), doc_ids_SN, positions(doc_ids_SN)
        )


def positions(doc_ids_SN: np.ndarray) -> np.ndarray:
    """Return each token's place in its segment, uint32 (S, N).

    It restarts at 0 where the document changes and where a sequence starts.
    """
    place_N = np.arange(doc_ids_SN.shape[1])
    opens_SN = np.ones(doc_ids_SN.shape, bool)
    opens_SN[:, 1:] = doc_ids_SN[:, 1:] != doc_ids_SN[:, :-1]
    start_SN = np.maximum.accumulate(np.where(opens_SN, place_N, 0), axis=1)
    return (place_N - start_SN).astype(np.uint32)
