"""A small text with features whose activations are known, written as feature shards."""

import numpy as np
from safetensors.numpy import save_file
from scipy import sparse

from deepseemoe.features.store import FeatureWriter
from deepseemoe.features.text import FeatureText
from deepseemoe.runtime.files import growing

SEQUENCE = 64


def make_text(*, n_sequences=30, n_features=12, density=0.05, seed=0):
    """Return a text of documents of 5 to 90 tokens with random features; the last one is silent."""
    rng = np.random.default_rng(seed)
    n_tokens = n_sequences * SEQUENCE
    lengths = rng.integers(5, 90, n_tokens)
    doc_ids = np.repeat(np.arange(len(lengths)), lengths)[:n_tokens].astype(np.uint32)
    opens = np.arange(n_tokens) % SEQUENCE == 0
    opens[1:] |= doc_ids[1:] != doc_ids[:-1]
    positions = np.arange(n_tokens) - np.maximum.accumulate(np.where(opens, np.arange(n_tokens), 0))
    dense = rng.gamma(2, 1, (n_tokens, n_features)) * (rng.random((n_tokens, n_features)) < density)
    dense[positions == 0] = 0
    dense[:, -1] = 0
    return FeatureText(
        matrix=sparse.csr_array(dense.astype(np.float32)),
        token_ids=rng.integers(0, 50, n_tokens).astype(np.uint32),
        doc_ids=doc_ids,
        positions=positions.astype(np.uint32),
        is_valid=positions > 0,
    )


def planted(activations, *, doc_lengths, doc_ids=None, token_ids=None):
    """Return a text with one feature: `activations` by place; every document opens a segment.

    Documents are numbered, unless `doc_ids` says otherwise; every token is of its own type, unless
    `token_ids` says otherwise.
    """
    n_tokens = sum(doc_lengths)
    doc_ids = range(len(doc_lengths)) if doc_ids is None else doc_ids
    positions = np.concatenate([np.arange(length) for length in doc_lengths])
    dense = np.zeros((n_tokens, 1), np.float32)
    for place, value in activations.items():
        dense[place] = value
    return FeatureText(
        matrix=sparse.csr_array(dense),
        token_ids=np.arange(n_tokens) if token_ids is None else np.asarray(token_ids),
        doc_ids=np.repeat(np.array(doc_ids, np.uint32), doc_lengths),
        positions=positions,
        is_valid=positions > 0,
    )


def token_arrays(text, chosen=slice(None)):
    return {
        "token_id": text.token_ids[chosen],
        "doc_id": text.doc_ids[chosen],
        "position": text.positions[chosen],
        "is_valid": text.is_valid[chosen].astype(np.uint8),
    }


def write_shards(folder, text, *, n_shards=2, edges=None):
    """Write a text as consecutive shards and return their paths; `edges` are any places inside."""
    if edges is None:
        edges = np.linspace(0, text.n_tokens // SEQUENCE, n_shards + 1).astype(int)[1:-1] * SEQUENCE
    edges = [0, *edges, text.n_tokens]
    paths = []
    for shard, (start, stop) in enumerate(zip(edges, edges[1:], strict=False)):
        paths.append(folder / f"{shard:05d}.zarr")
        with growing(paths[-1]) as partial:
            writer = FeatureWriter(partial, d_dict=text.d_dict, manifest={"shard": shard})
            writer.append(text.matrix[start:stop], token_arrays(text, slice(start, stop)))
    return paths


def write_weights(path, n_features, *, seed=0):
    """Write the decoder of a dictionary: two layers of eight numbers."""
    decoder = np.random.default_rng(seed).standard_normal((n_features, 2, 8))
    save_file({"decoder": decoder.astype(np.float32)}, path)
    return path
