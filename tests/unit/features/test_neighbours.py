"""The nearest features are those of the plain formula, in each way that they are looked for."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from deepseemoe.features.neighbours import (
    N_NEIGHBOURS,
    N_PROJECTED,
    nearest_features,
    nearest_rows,
    neighbour_columns,
)


def unit_rows(n_features, n_numbers, *, n_groups, seed=0):
    """Return rows of length 1 around shared directions, so that nearest ones are near."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n_groups, n_numbers))
    rows = shared[np.arange(n_features) % n_groups]
    rows = rows + rng.uniform(0.2, 2, (n_features, 1)) * rng.standard_normal(
        (n_features, n_numbers)
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def plain(rows, n):
    """Return the n nearest of each row, and their cosines."""
    cosine = rows.astype(np.float64) @ rows.T.astype(np.float64)
    np.fill_diagonal(cosine, -2)
    order = np.argsort(-cosine, axis=1)[:, :n]
    return order, np.take_along_axis(cosine, order, 1)


def test_neighbours_are_the_nearest_of_all_features(monkeypatch):
    rows = unit_rows(300, 40, n_groups=20)
    expected, cosines = plain(rows, N_NEIGHBOURS)
    found = nearest_rows(rows, seed=0)
    assert (found.features == expected).mean() > 0.999  # but for cosines equal to six digits
    np.testing.assert_allclose(found.cosines, cosines, atol=2e-6)
    monkeypatch.setattr("deepseemoe.features.neighbours.BLOCK_NUMBERS", 1000)
    assert (nearest_rows(rows, seed=0).features == found.features).all()


def test_a_projection_finds_what_is_near_and_its_cosines_are_exact():
    rows = unit_rows(400, 3 * N_PROJECTED, n_groups=40)
    expected, cosines = plain(rows, N_NEIGHBOURS)
    found = nearest_rows(rows, seed=0, exact_flops=0)
    near = cosines > 0.25
    assert near.sum() > 400
    hits = [
        len(set(one[is_near]) & set(two)) / max(is_near.sum(), 1)
        for one, two, is_near in zip(expected, found.features, near, strict=True)
        if is_near.any()
    ]
    assert np.mean(hits) > 0.99
    pairs = np.einsum("fc,fnc->fn", rows.astype(np.float64), rows[found.features])
    np.testing.assert_allclose(found.cosines, pairs, atol=2e-6)
    assert (np.diff(found.cosines, axis=1) <= 0).all()


def test_equal_features_stand_in_their_order_and_one_that_writes_nothing_is_near_to_none():
    rows = np.zeros((6, 4), np.float32)
    rows[:5, 0] = 1
    found = nearest_rows(rows, seed=0)
    assert found.features[2].tolist() == [0, 1, 3, 4, 5]
    assert found.cosines[2].tolist() == [1, 1, 1, 1, 0]
    assert found.cosines[5].tolist() == [0] * 5


def test_the_decoder_of_all_layers_counts_whatever_its_length(tmp_path):
    """Two layers: features 0 and 1 agree in the first only, 0 and 2 in both."""
    decoder = np.zeros((3, 2, 3), np.float32)
    decoder[0, 0, 0] = decoder[0, 1, 1] = 1
    decoder[1, 0, 0] = decoder[1, 1, 2] = 5
    decoder[2, 0, 0] = decoder[2, 1, 1] = 7
    path = tmp_path / "weights.safetensors"
    save_file({"decoder": decoder, "encoder": decoder}, path)
    columns = neighbour_columns(nearest_features(path, d_dict=3, seed=0))
    assert columns["neighbour"].tolist() == [2, 1, 0, 2, 0, 1]
    np.testing.assert_allclose(columns["cosine"], [1, 0.5, 0.5, 0.5, 1, 0.5], atol=1e-6)
    assert columns["rank"].tolist() == [0, 1] * 3


def test_files_that_are_damaged_or_of_another_dictionary_are_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"decoder": np.zeros((3, 2, 3), np.float32)}, path)
    with pytest.raises(ValueError, match=r"weights\.safetensors: 3 features, .* have 4"):
        nearest_features(path, d_dict=4, seed=0)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged"):
        nearest_features(path, d_dict=3, seed=0)
