"""Sequences of the test split with the features of their tokens, for stages that run the model.

Axes: T tokens of a batch, S sequences, N sequence length, F features that are asked for.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from deepseemoe.corpus.shards import TokenShard
from deepseemoe.experts.documents import ShardSource, read_rows
from deepseemoe.features.store import FeatureShard
from deepseemoe.model.tokens import TokenBatch

BATCH_TOKENS = 2048
"""Tokens that the model runs on at once, in whole sequences."""


class Batch(NamedTuple):
    """Some sequences, and the features of their tokens in text order."""

    tokens: TokenBatch
    document_T: np.ndarray
    is_valid_T: np.ndarray
    features_TF: sp.csr_array

    @property
    def length(self) -> int:
        """N, the tokens of a sequence."""
        return self.tokens.token_ids.shape[1]


def batches(
    sources: Sequence[ShardSource], corpus: Sequence[ShardSource], features: np.ndarray
) -> Iterator[Batch]:
    """Yield all sequences with the features of their tokens; raise ValueError where they differ."""
    if len(sources) != len(corpus):
        raise ValueError(
            f"{len(sources)} feature shards but {len(corpus)} token shards; give the token shard "
            "of each feature shard, in the same order"
        )
    for place, (source, read) in enumerate(zip(sources, corpus, strict=True)):
        shard, tokens = source(), read()
        if not np.array_equal(tokens.token_ids_SN.ravel(), shard.token_ids):
            raise ValueError(
                f"shard {place}: features and tokens are of different text; encode the features "
                "from the activations of this shard (encode_features)"
            )
        yield from _shard_batches(shard, tokens, read_rows(shard, features))


def _shard_batches(
    shard: FeatureShard, tokens: TokenShard, features_TF: sp.csr_array
) -> Iterator[Batch]:
    n_sequences, length = tokens.token_ids_SN.shape
    step = max(BATCH_TOKENS // length, 1)
    for start in range(0, n_sequences, step):
        some = slice(start, start + step)
        rows = slice(start * length, min(start + step, n_sequences) * length)
        yield Batch(
            TokenBatch.from_arrays(tokens.token_ids_SN[some], tokens.positions_SN[some]),
            tokens.doc_ids_SN[some].ravel(),
            shard.is_valid[rows].astype(bool),
            features_TF[rows],
        )
