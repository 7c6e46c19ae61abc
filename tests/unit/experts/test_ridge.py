import numpy as np
import planted
import pytest
from planted_shards import shards
from sklearn.linear_model import Ridge

from deepseemoe.config import ExpertsConfig
from deepseemoe.experts import conjugate, gram, ridge
from deepseemoe.experts.counts import count_pairs
from deepseemoe.experts.documents import DocumentStream
from deepseemoe.experts.join import join
from deepseemoe.experts.statistics import effective_clusters
from deepseemoe.experts.support import count_firings, supported_features

SURE = {"confidence": 0.95, "clusters_F": np.full(30, np.inf)}


@pytest.fixture(scope="module")
def world():
    return planted.null_world(1, n_documents=120, n_features=30)


@pytest.fixture(scope="module")
def text(world):
    return DocumentStream(shards(world, 3).features, block_tokens=2000)


def planted_targets(world, noise=1.0):
    """Return targets that some features raise, and by how much a unit of activation."""
    rng = np.random.default_rng(2)
    beta_FX = rng.normal(size=(30, 4)) * (rng.random((30, 4)) < 0.3)
    y_TX = world.features_TF @ beta_FX
    y_TX = y_TX + noise * rng.normal(size=y_TX.shape)
    return beta_FX, y_TX, lambda start, stop: y_TX[start:stop].astype(np.float32)


def slow(world, y_TX, penalty):
    """Return scikit-learn's ridge coefficients on standardised features."""
    z_TF = world.features_TF.toarray().astype(float)
    spread = z_TF.std(0)
    model = Ridge(alpha=penalty * len(z_TF)).fit((z_TF - z_TF.mean(0)) / spread, y_TX)
    return (model.coef_ / spread).T


@pytest.mark.parametrize("way", [ridge.Exact, ridge.Sampled])
def test_coefficients_are_those_of_ridge_regression(world, text, way):
    _, y_TX, targets = planted_targets(world)
    found = way(text, np.arange(30)).fit(targets, 4, **SURE)
    expected = slow(world, y_TX, found.penalty)
    np.testing.assert_allclose(found.beta, expected, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("way", [ridge.Exact, ridge.Sampled])
def test_planted_coefficients_lie_in_their_intervals_and_zeros_cover_zero(world, text, way):
    beta_FX, _, targets = planted_targets(world)
    found = way(text, np.arange(30)).fit(targets, 4, **SURE)
    inside = (found.low <= beta_FX) & (beta_FX <= found.high)
    assert inside[beta_FX == 0].mean() > 0.85  # 79 of them
    is_sure = (found.low > 0) | (found.high < 0)
    assert is_sure[np.abs(beta_FX) > 0.5].mean() > 0.9
    assert (found.error_X < 0.95).any()


def test_noise_gets_the_largest_penalty_and_no_more_intervals_than_nominal(world, text):
    rng = np.random.default_rng(3)
    y_TX = rng.normal(size=(world.document_T.size, 40)).astype(np.float32)
    found = ridge.Exact(text, np.arange(30)).fit(lambda start, stop: y_TX[start:stop], 40, **SURE)
    assert found.penalty == ridge.PENALTIES[-1]
    assert found.error_X.mean() > 0.999
    misses = (found.low > 0) | (found.high < 0)
    assert 0.02 < misses.mean() < 0.09


@pytest.mark.parametrize("options", [{}, {"document_level": 1.0}])
def test_choices_that_no_feature_moves_are_found_at_the_nominal_rate(options):
    misses = []
    for seed in range(6):
        world = planted.null_world(seed, n_documents=150, n_features=60, **options)
        parts = shards(world)
        joined = join(parts.features, parts.stores, layers=(1,), n_experts=16)
        features = supported_features(ExpertsConfig(), count_firings(joined.text))
        sums = count_pairs(joined, features)
        found = ridge.regression(joined.text, features).fit(
            lambda start, stop: joined.routing.chosen(slice(start, stop)),  # noqa: B023
            16,
            confidence=0.95,
            clusters_F=effective_clusters(sums.f_F, sums.f_f_F),
        )
        misses.append(((found.low > 0) | (found.high < 0)).mean())
    assert 0.03 < np.mean(misses) < 0.08


def test_both_ways_agree(world, text):
    _, _, targets = planted_targets(world)
    exact, sampled = (
        way(text, np.arange(30)).fit(targets, 4, **SURE) for way in (ridge.Exact, ridge.Sampled)
    )
    for one, other in zip(exact[:3], sampled[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=0.02, atol=0.01)


def test_a_regression_without_a_fold_is_one_without_its_documents(world, text):
    beta_FX, y_TX, targets = planted_targets(world)
    sample = conjugate.Sample.of(text, np.arange(30))
    exact = ridge.Exact(text, np.arange(30))
    products = exact._products(targets, 4)
    one = gram.solve(products.without(3), np.array([0.01]))[0]
    other = sample.solve(sample.targets(targets, 4), 0.01, [3])[0]
    kept = np.flatnonzero(gram.folds_of(text, 0, text.n_tokens) != 3)
    z_TF = world.features_TF.toarray()[kept].astype(float)
    spread = z_TF.std(0)
    model = Ridge(alpha=0.01 * kept.size).fit((z_TF - z_TF.mean(0)) / spread, y_TX[kept])
    np.testing.assert_allclose(one, (model.coef_ / spread).T, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(one, other, rtol=0.01, atol=3e-3)


def test_the_error_on_a_fold_is_that_of_its_tokens(world, text):
    _, y_TX, targets = planted_targets(world)
    products = ridge.Exact(text, np.arange(30))._products(targets, 4)
    fitted, held = products.without(2), products.of(2)
    beta_FX = gram.solve(fitted, np.array([0.01]))[0]
    at = gram.folds_of(text, 0, text.n_tokens) == 2
    z_TF = world.features_TF.toarray().astype(float)
    off_TX = y_TX[at] - y_TX[~at].mean(0)
    expected = off_TX - (z_TF[at] - z_TF[~at].mean(0)) @ beta_FX
    error, alone = gram.squared_error(beta_FX, fitted, held)
    np.testing.assert_allclose(error, (expected**2).sum(0), rtol=1e-5)
    np.testing.assert_allclose(alone, (off_TX**2).sum(0), rtol=1e-5)


def test_a_feature_that_never_varies_gets_nothing(world, text):
    silent = world._replace(features_TF=world.features_TF @ np.diag([0.0, *[1.0] * 29]))
    silent = silent._replace(features_TF=type(world.features_TF)(silent.features_TF))
    stream = DocumentStream(shards(silent).features)
    _, _, targets = planted_targets(world)
    for way in (ridge.Exact, ridge.Sampled):
        found = way(stream, np.arange(30)).fit(targets, 4, **SURE)
        assert (found.beta[0] == 0).all()
        assert np.isfinite(found.beta).all()
