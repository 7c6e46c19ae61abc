import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseemoe.experts.discovery import benjamini_hochberg, layer_factors, q_by_expert, simes


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_q_is_the_step_up_procedure_and_never_falls_as_p_rises(p):
    p = np.array(p)
    q, order = benjamini_hochberg(p), np.argsort(p, kind="stable")
    assert (np.diff(q[order]) >= -1e-15).all()
    assert (q >= p - 1e-15).all()
    at = [p[order][k] * p.size / (k + 1) for k in range(p.size)]
    step_up = [min(1, *at[k:]) for k in range(p.size)]
    np.testing.assert_allclose(q[order], step_up, rtol=1e-12, atol=1e-300)


def test_simes_is_the_smallest_q():
    p = np.array([0.01, 0.2, 0.03, 0.9])
    assert simes(p) == pytest.approx(benjamini_hochberg(p).min())
    assert simes(np.zeros(0)) == 1


def test_the_tree_rejects_what_three_tests_in_turn_reject():
    rng = np.random.default_rng(0)
    expert = np.repeat(np.arange(20), 50)
    p = rng.random(1000)
    p[:150] **= 8  # three experts with many true pairs
    q, _ = q_by_expert(expert, p, 0.05)
    q_E = benjamini_hochberg(np.array([simes(p[expert == e]) for e in range(20)]))
    level = 0.05 * (q_E <= 0.05).mean()
    expected = np.concatenate(
        [(benjamini_hochberg(p[expert == e]) <= level) & (q_E[e] <= 0.05) for e in range(20)]
    )
    assert 20 < expected.sum() < 150
    assert np.array_equal(q <= 0.05, expected)


def test_nothing_true_gives_almost_nothing_at_any_level_of_the_tree():
    rng = np.random.default_rng(1)
    expert, found = np.repeat(np.arange(16), 100), []
    for _ in range(100):
        layers = [q_by_expert(expert, rng.random(1600), 0.05) for _ in range(4)]
        q_L, factor_L = layer_factors(np.array([p for _, p in layers]), 0.05)
        q = [np.maximum(q * f, ql) for (q, _), f, ql in zip(layers, factor_L, q_L, strict=True)]
        found.append(any((one <= 0.05).any() for one in q))
    assert np.mean(found) < 0.12


def test_layers_without_pairs_are_harmless():
    q, p = q_by_expert(np.zeros(0, int), np.zeros(0), 0.05)
    assert q.size == 0
    assert p == 1
