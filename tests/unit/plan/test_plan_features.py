"""Estimated bytes of compressed files are near those of files like them."""

import numpy as np
import pytest
from made_run import bytes_on_disk
from scipy import sparse

from deepseemoe.features.store import FeatureWriter
from deepseemoe.plan.stores import feature_bytes

N_TOKENS, K = 8192, 32


def some_features(d_dict):
    """Return K features a token, as unevenly used as those of a trained dictionary."""
    rng = np.random.default_rng(0)
    share = 1 / (np.arange(d_dict) + 10) ** 0.8
    features = rng.permutation(d_dict)[rng.choice(d_dict, N_TOKENS * K, p=share / share.sum())]
    values = np.exp(rng.standard_normal(len(features))).astype(np.float32)
    places = np.repeat(np.arange(N_TOKENS), K), features
    return sparse.coo_array((values, places), shape=(N_TOKENS, d_dict)).tocsr()


@pytest.mark.parametrize("d_dict", [1024, 32_768, 131_072])
def test_a_feature_shard_is_estimated_within_a_tenth(d_dict, tmp_path):
    rng = np.random.default_rng(1)
    matrix = some_features(d_dict)
    tokens = {
        "token_id": rng.zipf(1.3, N_TOKENS).clip(0, 200_000).astype(np.uint32),
        "doc_id": np.arange(N_TOKENS, dtype=np.uint32) // 800,
        "position": np.arange(N_TOKENS, dtype=np.uint32) % 800,
        "is_valid": np.ones(N_TOKENS, np.uint8),
    }
    FeatureWriter(tmp_path / "f.zarr", d_dict=d_dict, manifest={}).append(matrix, tokens)
    planned = feature_bytes(N_TOKENS, k=matrix.nnz / N_TOKENS, d_dict=d_dict)
    assert planned == pytest.approx(bytes_on_disk(tmp_path / "f.zarr"), rel=0.1)
