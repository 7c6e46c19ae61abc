import numpy as np
import pytest

from deepseemoe.routing.centroids import centroids
from deepseemoe.routing.clusters import adjusted_rand, k_means


def clustered(seed, n_tokens=3000, n_experts=6, d_model=24, apart=6.0):
    """Inputs in clusters, each the business of an expert whose row is the cluster's direction."""
    rng = np.random.default_rng(seed)
    centres_ED = apart * np.linalg.qr(rng.normal(size=(d_model, n_experts)))[0].T
    cluster_T = rng.integers(n_experts, size=n_tokens)
    inputs_TD = centres_ED[cluster_T] + rng.normal(size=(n_tokens, d_model)) + 5.0
    return rng, inputs_TD, cluster_T, centres_ED


def chosen_by(inputs_TD, rows_ED, top_k=1):
    """Return the top k of a router whose bias takes away what all inputs have in common."""
    return np.argsort(-((inputs_TD - inputs_TD.mean(0)) @ rows_ED.T), axis=1)[:, :top_k]


def test_rows_that_are_centroids_are_found_to_be():
    _, inputs, cluster, centres = clustered(0)
    rows = centres - centres.mean(0)
    found = centroids(inputs, chosen_by(inputs, rows), rows)
    assert (found.centred_cosine_E > 0.9).all()
    assert (found.cosine_E < 0.6).all()  # the common offset hides what the centred one shows
    assert found.nearest > 0.95
    assert found.chance_nearest == pytest.approx(1 / 6, abs=0.05)
    assert found.ari > 0.95
    assert found.n_tokens_E.sum() == cluster.size
    assert found.chance_span_share == pytest.approx(5 / 24)  # centred rows have rank 5
    assert found.span_share > 2 * found.chance_span_share


def test_a_router_that_does_not_look_is_at_chance():
    rng, inputs, _, _ = clustered(1)
    rows = rng.normal(size=(6, 24))
    found = centroids(inputs, rng.integers(6, size=(inputs.shape[0], 1)), rows)
    assert np.abs(found.centred_cosine_E).max() < 4 * found.chance_sd
    assert found.chance_sd == pytest.approx(24**-0.5)
    assert abs(found.ari) < 0.02
    assert found.nearest == pytest.approx(found.chance_nearest, abs=0.06)


def test_rows_have_their_share_of_variance_by_chance():
    rng = np.random.default_rng(2)
    inputs, rows = rng.normal(size=(4000, 30)), rng.normal(size=(6, 30))
    found = centroids(inputs, chosen_by(inputs, rows, 2), rows)
    assert found.span_share == pytest.approx(0.2, abs=0.01)
    assert found.chance_span_share == pytest.approx(0.2)
    assert (found.centred_cosine_E > 0.5).all()  # choosing alone bends the means to the rows


def test_an_expert_without_tokens_has_no_cosine():
    _, inputs, _, centres = clustered(3)
    ids = chosen_by(inputs, centres)
    rows = np.vstack([centres, centres[:1]])
    found = centroids(inputs, ids, rows)
    assert found.n_tokens_E[6] == 0
    assert np.isnan(found.cosine_E[6])
    assert np.isfinite(found.cosine_E[:6]).all()
    assert found.nearest > 0.9


def test_adjusted_rand_of_known_partitions():
    """The example of Hubert and Arabie's index that scikit-learn documents: 4 / 7."""
    assert adjusted_rand(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])) == pytest.approx(4 / 7)
    assert adjusted_rand(np.array([0, 0, 1, 1]), np.array([9, 9, 2, 2])) == 1
    assert adjusted_rand(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == pytest.approx(-0.5)
    assert adjusted_rand(np.zeros(5), np.zeros(5)) == 1


def test_k_means_finds_the_clusters():
    _, inputs, cluster, _ = clustered(4)
    assert adjusted_rand(k_means(inputs, 6, seed=0), cluster) > 0.98
    assert np.unique(k_means(np.ones((10, 3)), 2, seed=0)).size == 1


def test_arrays_of_other_shapes_are_refused():
    _, inputs, _, centres = clustered(5)
    ids = chosen_by(inputs, centres)
    with pytest.raises(ValueError, match=r"router rows \(6, 20\): expected"):
        centroids(inputs, ids, centres[:, :20])
    with pytest.raises(ValueError, match="expected 3000 tokens and experts below 3"):
        centroids(inputs, ids, centres[:3])
