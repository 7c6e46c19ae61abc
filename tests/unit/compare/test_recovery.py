"""Experts made for a domain are found again; experts that were not are at chance."""

import math

import numpy as np
import pytest

from deepseemoe.compare.recovery import recover
from deepseemoe.runtime.seeds import generator


def recovered(score_LEC, own_E, n_permutations=1000):
    draws = score_LEC + 0.01 * generator(0, "draws").standard_normal((50, *score_LEC.shape))
    rng = generator(0, "orders")
    return recover(score_LEC, own_E, draws, n_permutations=n_permutations, rng=rng)


def test_experts_made_for_domains_are_recovered():
    score = 2 * np.eye(7)[None].repeat(2, 0)
    found = recovered(score, np.arange(7))
    assert found["accuracy"].value_L == pytest.approx([1, 1, 1])
    assert found["accuracy"].chance_L == pytest.approx([1 / 7] * 3)
    assert found["accuracy"].n_permutations == math.factorial(7)
    assert found["accuracy"].p_L == pytest.approx([1 / math.factorial(7)] * 3)
    assert found["enrichment"].value_L == pytest.approx([2, 2, 2])
    assert found["enrichment"].chance_L == pytest.approx([0, 0, 0], abs=1e-9)


def test_p_is_uniform_where_experts_were_not_made_for_anything():
    rng = np.random.default_rng(0)
    p = [
        recovered(rng.standard_normal((2, 5, 5)), np.arange(5))["enrichment"].p_L[-1]
        for _ in range(400)
    ]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(p) == pytest.approx(0.5, abs=0.05)


def test_many_experts_have_drawn_orders_the_given_one_among_them():
    score = np.eye(20)[None]
    found = recovered(score, np.arange(20), n_permutations=500)["accuracy"]
    assert found.n_permutations == 500
    assert found.p_L[-1] == pytest.approx(1 / 500)


def test_a_domain_that_was_not_seen_is_never_first_and_ties_are_shared():
    score = np.array([[[1.0, 1.0, np.nan], [0.0, 3.0, np.nan], [2.0, 0.0, np.nan]]])
    found = recovered(score, np.array([0, 1, 2]))["accuracy"]
    # Expert 0 ties two domains, expert 1 is right, expert 2 was made for the unseen one.
    assert found.value_L[0] == pytest.approx((0.5 + 1 + 0) / 3)
