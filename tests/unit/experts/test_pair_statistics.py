import numpy as np
import planted
import pytest
from planted_shards import shards

from deepseemoe.experts import counts, statistics
from deepseemoe.experts.join import join


class Brute:
    """Counts and sums from dense tables of every token, document, feature and expert."""

    def __init__(self, world):
        fires_TF = (world.features_TF.toarray() > 0).astype(float)
        chosen_TX = np.zeros((fires_TF.shape[0], 2 * world.n_experts))
        gates_TX = np.zeros_like(chosen_TX)
        for row, (ids, weights) in enumerate(
            zip(world.experts_TLK, world.weights_TLK, strict=True)
        ):
            for layer in (0, 1):
                columns = layer * world.n_experts + ids[layer].astype(int)
                chosen_TX[row, columns], gates_TX[row, columns] = 1, weights[layer]
        of_DT = np.equal.outer(np.unique(world.document_T), world.document_T).astype(float)
        self.g = np.einsum("dt,tf,tx->dfx", of_DT, fires_TF, chosen_TX, optimize=True)
        self.f, self.e, self.n = of_DT @ fires_TF, of_DT @ chosen_TX, of_DT.sum(1)
        self.both, self.gate = self.g.sum(0), fires_TF.T @ gates_TX
        self.activation = world.features_TF.T @ chosen_TX
        self.activation_F = world.features_TF.sum(0)
        self.fires_TF, self.chosen_TX, self.gates_TX = fires_TF, chosen_TX, gates_TX


@pytest.fixture(scope="module")
def world():
    return planted.world(1, n_documents=40, n_features=25, n_experts=6, top_k=2, n_layers=2)


@pytest.fixture(scope="module")
def brute(world):
    return Brute(world)


@pytest.fixture(scope="module", params=[300, 1 << 20])
def joined(request, world):
    parts = shards(world, 3, layers=(1, 2))
    size = request.param
    return join(parts.features, parts.stores, layers=(1, 2), n_experts=6, block_tokens=size)


@pytest.fixture(scope="module")
def sums(joined):
    return counts.count_pairs(joined, np.arange(25))


def test_sums_equal_brute_force(sums, brute):
    expected = {
        "both": brute.both,
        "gate": brute.gate,
        "activation": brute.activation,
        "g_g": (brute.g**2).sum(0),
        "g_f": (brute.g * brute.f[:, :, None]).sum(0),
        "g_e": (brute.g * brute.e[:, None]).sum(0),
        "g_n": (brute.g * brute.n[:, None, None]).sum(0),
        "f_e": brute.f.T @ brute.e,
        "f_F": brute.f.sum(0),
        "activation_F": brute.activation_F,
        "e_X": brute.e.sum(0),
        "n": brute.n.sum(),
        "n_documents": 40,
        "f_f_F": (brute.f**2).sum(0),
        "f_n_F": brute.n @ brute.f,
        "e_e_X": (brute.e**2).sum(0),
        "e_n_X": brute.n @ brute.e,
        "n_n": (brute.n**2).sum(),
        "gate_X": brute.gates_TX.sum(0),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(sums, name), values, rtol=1e-6, err_msg=name)


def test_the_clustered_variance_equals_the_sum_over_documents(sums, brute):
    n_f, n_e, n = brute.f.sum(0)[:, None], brute.e.sum(0), brute.n.sum()
    n11, n10, n01 = brute.both + 0.5, n_f - brute.both + 0.5, n_e - brute.both + 0.5
    n00 = n - n_f - n_e + brute.both + 0.5
    f, e = brute.f[:, :, None], brute.e[:, None]
    rest = brute.n[:, None, None] - f - e + brute.g
    u = brute.g / n11 - (f - brute.g) / n10 - (e - brute.g) / n01 + rest / n00
    expected = ((u - u.mean(0)) ** 2).sum(0)
    found = statistics.log_odds_squares(sums)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)


def test_halves_are_every_other_document(joined, brute):
    halves = counts.count_halves(joined, np.arange(25))
    for half, sums in enumerate(halves):
        np.testing.assert_array_equal(sums.both, brute.g[half::2].sum(0))
        np.testing.assert_allclose(sums.g_e, (brute.g * brute.e[:, None])[half::2].sum(0))
        np.testing.assert_array_equal(sums.f_f_F, (brute.f[half::2] ** 2).sum(0))
        assert sums.n == brute.n[half::2].sum()


def test_effect_sizes_equal_their_definitions_token_by_token(world, brute):
    fires, chosen, z = brute.fires_TF, brute.chosen_TX, world.features_TF.toarray()
    margins = fires.sum(0)[:, None], chosen.sum(0), len(fires)
    lift = statistics.lift(brute.both, *margins)
    rd = statistics.risk_difference(brute.both, *margins)
    lor = statistics.log_odds_ratio(brute.both, *margins)
    rho = statistics.rho(brute.activation, z.sum(0)[:, None], *margins[1:])
    for f, x in [(0, 0), (3, 7), (24, 11), (10, 5)]:
        on, is_chosen = fires[:, f] == 1, chosen[:, x] == 1
        assert lift[f, x] == pytest.approx(is_chosen[on].mean() / is_chosen.mean())
        assert rd[f, x] == pytest.approx(is_chosen[on].mean() - is_chosen[~on].mean())
        z_on, z_off = (z[at, f].mean() for at in (is_chosen, ~is_chosen))
        assert rho[f, x] == pytest.approx(z_on - z_off, abs=1e-6)
        odds = [((is_chosen & a).sum() + 0.5) / ((~is_chosen & a).sum() + 0.5) for a in (on, ~on)]
        assert lor[f, x] == pytest.approx(np.log(odds[0] / odds[1]))


def test_a_margin_of_zero_gives_nan_and_no_warning():
    zero = np.zeros(1)
    assert np.isnan(statistics.lift(zero, zero, np.array([5]), 10)).all()
    assert np.isnan(statistics.risk_difference(zero, zero, np.array([5]), 10)).all()
    assert np.isfinite(statistics.log_odds_ratio(zero, zero, np.array([5]), 10)).all()


def test_effective_clusters_count_equal_documents_and_discount_unequal_ones():
    equal, unequal = np.full(30, 4.0), np.array([97.0, 1, 1, 1])
    assert statistics.effective_clusters(equal.sum(), (equal**2).sum()) == pytest.approx(30)
    assert 1 < statistics.effective_clusters(unequal.sum(), (unequal**2).sum()) < 1.1


def test_intervals_widen_with_confidence_and_need_two_clusters():
    squares, clusters = np.ones(2), np.array([20.0, 1.0])
    low, high = statistics.clustered_interval(np.zeros(2), squares, clusters, 0.95)
    wider = statistics.clustered_interval(np.zeros(2), squares, clusters, 0.99)
    assert wider[0][0] < low[0] < 0 < high[0] < wider[1][0]
    assert np.isnan(low[1])
    assert np.isnan(high[1])
