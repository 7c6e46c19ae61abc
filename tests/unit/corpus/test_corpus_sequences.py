"""Packing into sequences, against a plain loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseemoe.corpus.sequences import Packer, positions


def plain_positions(doc_ids: list[int], sequence_length: int) -> list[int]:
    """Count up within a document, from 0 again at each document and each sequence."""
    places: list[int] = []
    for index, doc_id in enumerate(doc_ids):
        opens = index % sequence_length == 0 or doc_ids[index - 1] != doc_id
        places.append(0 if opens else places[-1] + 1)
    return places


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    sequence_length=st.integers(2, 9),
    n_sequences=st.integers(1, 12),
    shard_sequences=st.integers(1, 5),
)
def test_shards_hold_the_documents_one_behind_the_other(
    lengths, sequence_length, n_sequences, shard_sequences
):
    n_tokens = sequence_length * n_sequences
    packer = Packer(
        n_tokens=n_tokens,
        sequence_length=sequence_length,
        shard_tokens=sequence_length * shard_sequences,
    )
    texts = [np.arange(length) + 100 * number for number, length in enumerate(lengths)]
    shards, taken = [], []
    for number, text in enumerate(texts):
        taken.append(packer.add(text, number))
        shards += packer.shards()
    whole = np.concatenate(texts)[:n_tokens]
    owners = np.repeat(np.arange(len(lengths)), lengths)[:n_tokens]
    packed = np.concatenate([shard.token_ids_SN.ravel() for shard in shards] or [whole[:0]])
    doc_ids = np.concatenate([shard.doc_ids_SN.ravel() for shard in shards] or [whole[:0]])
    places = [v for shard in shards for v in shard.positions_SN.ravel().tolist()]
    assert sum(taken) == len(whole)
    assert packer.is_full == (sum(lengths) >= n_tokens)
    assert len(packed) == n_tokens if packer.is_full else len(packed) <= len(whole)
    assert packed.tolist() == whole[: len(packed)].tolist()
    assert doc_ids.tolist() == owners[: len(packed)].tolist()
    assert places == plain_positions(doc_ids.tolist(), sequence_length)
    full, last = [shard.token_ids_SN.size for shard in shards[:-1]], shards[-1:]
    assert set(full) <= {sequence_length * shard_sequences}
    assert all(shard.token_ids_SN.shape[1] == sequence_length for shard in last)


def test_a_full_split_takes_nothing_more():
    packer = Packer(n_tokens=8, sequence_length=4, shard_tokens=8)
    assert packer.add(np.arange(10), 0) == 8
    assert packer.add(np.arange(10), 1) == 0
    assert len(list(packer.shards())) == 1


@pytest.mark.parametrize("length", [1, 4])
def test_positions_restart_at_documents_and_sequences(length):
    doc_ids = np.array([[0, 0, 1, 1], [1, 1, 1, 2]], np.uint32)
    assert positions(doc_ids[:, :length]).tolist() == [
        [0, 1, 0, 1][:length],
        [0, 1, 2, 0][:length],
    ]
