"""Planted groups of near-parallel decoder rows are counted, whatever else is in the dictionary."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from deepseemoe.labels.expert_clusters import Clusters, clusters_by_chance, count_clusters


def groups(rng, k, n_rows, *, width=128, cosine=0.8):
    """Return rows of k groups, each with the given cosine to its group's direction, any length."""
    centres = rng.normal(size=(k, width))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    noise = rng.normal(size=(n_rows, width)) / width**0.5
    rows = cosine * centres[np.arange(n_rows) % k] + (1 - cosine**2) ** 0.5 * noise
    return rows * rng.uniform(0.1, 10, (n_rows, 1))


@pytest.mark.parametrize("k", [1, 2, 5, 11, 20])
@pytest.mark.parametrize("cosine", [0.8, 0.95])
def test_planted_groups_are_counted(k, cosine):
    for seed in range(5):
        assert count_clusters(groups(np.random.default_rng(seed), k, 20, cosine=cosine)) == k


def test_opposite_directions_are_two_things():
    row = np.random.default_rng(0).normal(size=(1, 64))
    assert count_clusters(np.concatenate([row, -row, 2 * row])) == 2


def test_a_feature_that_writes_nothing_is_alone():
    row = np.random.default_rng(0).normal(size=(1, 64))
    assert count_clusters(np.concatenate([row, row, 0 * row])) == 2
    assert count_clusters(row) == 1
    assert count_clusters(row[:0]) == 0


def test_chance_is_what_random_features_make():
    rng = np.random.default_rng(0)
    assert clusters_by_chance(rng.normal(size=(300, 256)), 20, rng) == pytest.approx(20, abs=0.1)
    few = clusters_by_chance(groups(rng, 6, 300, cosine=0.9), 20, rng)
    assert few == pytest.approx(6, abs=0.4), "of 6 directions 20 features meet nearly all"
    assert clusters_by_chance(rng.normal(size=(5, 8)), 20, rng) is None


def test_rows_come_from_the_file_of_a_dictionary(tmp_path):
    rng = np.random.default_rng(0)
    rows = groups(rng, 4, 40).astype(np.float32).reshape(40, 2, 64)
    save_file({"decoder": rows, "encoder": rows}, tmp_path / "weights.safetensors")
    clusters = Clusters(tmp_path / "weights.safetensors", np.arange(40), rng)
    told = clusters.of([0, 4, 8, 1])
    assert (told["n_features"], told["n_clusters"]) == (4, 2)
    assert 2 < told["clusters_by_chance"] < 4
    assert clusters.of([]) == {"n_features": 0, "n_clusters": 0, "clusters_by_chance": None}
