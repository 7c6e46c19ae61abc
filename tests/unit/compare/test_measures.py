"""Measures agree on routers of any size with one planted specialisation; at chance they are 0."""

import numpy as np
import pytest
from compared_routers import chosen, route, shares_by_group, text

from deepseemoe.compare.measures import (
    ceiling,
    concentration,
    information,
    information_noise,
    load_concentration,
    order2,
    token_order2,
)

GROUPS = 4
SIZES = [(8, 1), (8, 2), (16, 4), (64, 2), (64, 8), (128, 8), (256, 8)]
"""Experts and top_k from Mixtral's to DeepSeek-V3's."""


def measured(n_experts, top_k, strength):
    """Return plain and corrected information of the domain, and concentration of the token."""
    groups_T, documents_T = text(GROUPS)
    ids_TK = route(
        groups_T, documents_T, n_groups=GROUPS, n_experts=n_experts, top_k=top_k, strength=strength
    )
    table_TE = chosen(ids_TK, n_experts)
    share_CE, error_CE = shares_by_group(table_TE, groups_T, documents_T)
    q_CE, variance_CE = share_CE / top_k, (error_CE / top_k) ** 2
    weight_C = np.full(GROUPS, 1 / GROUPS)
    most = ceiling(weight_C, n_experts, top_k)
    plain = information(q_CE, weight_C) / most
    noise = information_noise(q_CE, variance_CE, weight_C) / most
    types_T = np.random.default_rng(0).integers(0, 300, groups_T.size) * GROUPS + groups_T
    n_both_VE = np.zeros((300 * GROUPS, n_experts))
    np.add.at(n_both_VE, types_T, table_TE)
    n_V = np.bincount(types_T, minlength=300 * GROUPS)
    order2_V = token_order2(n_both_VE, n_V, table_TE.mean(0) / top_k, top_k)
    token = float(concentration(np.average(order2_V, weights=n_V)))
    return float(plain), float(plain - noise), token


@pytest.mark.parametrize("strength", [0.1, 0.3, 0.6, 1.0])
def test_routers_of_any_size_with_one_specialisation_measure_alike(strength):
    found = np.array([measured(*size, strength) for size in SIZES])
    spread = found.max(0) - found.min(0)
    assert (spread[1:] < 0.04).all(), found
    if strength == 1:
        assert found[:, 1] == pytest.approx(1, abs=0.01)
        assert found[:, 2] == pytest.approx(1 - 1 / GROUPS, abs=0.01)


def test_more_specialised_is_more_for_every_size():
    for size in SIZES:
        found = np.array([measured(*size, strength) for strength in (0, 0.1, 0.3, 0.6, 1.0)])
        assert (np.diff(found[:, 1:], axis=0) > 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_a_router_that_does_not_look_is_at_0(size):
    """Tokens of a document share whims, so the token measure keeps a little of the document."""
    plain, corrected, token = measured(*size, 0.0)
    assert abs(corrected) < 0.002
    assert abs(token) < 0.03
    assert plain > 2 * abs(corrected), "what is taken off is most of it"


@pytest.mark.parametrize("size", [(8, 2), (64, 8), (256, 8)])
def test_few_counts_of_a_token_do_not_look_like_preference(size):
    """Ten occurrences over 256 experts: the plain estimate would be far from 0."""
    n_experts, top_k = size
    rng = np.random.default_rng(1)
    # 4000 types: the standard error of the mean is below .005 for each size.
    ids_TK = rng.random((40_000, n_experts), np.float32).argpartition(top_k)[:, :top_k]
    n_both_VE = chosen(ids_TK, n_experts).reshape(4000, 10, n_experts).sum(1)
    load_E = n_both_VE.sum(0) / n_both_VE.sum()
    n_V = np.full(4000, 10)
    corrected = concentration(token_order2(n_both_VE, n_V, load_E, top_k).mean())
    q_VE = n_both_VE / 10 / top_k
    plain = concentration(order2(q_VE, 0 * q_VE, load_E).mean())
    assert abs(corrected) < 0.015
    assert plain > 0.09


def test_idle_experts_are_counted_whatever_top_k():
    for n_experts in (8, 64, 256):
        half = np.where(np.arange(n_experts) % 2, 2 / n_experts, 0)
        assert load_concentration(half) == pytest.approx(0.5)
        assert load_concentration(np.full(n_experts, 1 / n_experts)) == pytest.approx(0)


def test_busy_experts_are_no_specialisation():
    """Every domain chooses alike, but half of the experts are never chosen."""
    q_CE = np.tile(np.where(np.arange(16) < 8, 1 / 8, 0), (3, 1))
    assert information(q_CE, np.full(3, 1 / 3)) == pytest.approx(0, abs=1e-12)
    assert concentration(order2(q_CE, 0 * q_CE, q_CE[0])) == pytest.approx(0, abs=1e-12)


def test_the_ceiling_is_what_a_router_can_reach():
    """Seven domains, but two of eight experts a token: four groups of experts at most."""
    weight_C = np.full(7, 1 / 7)
    assert ceiling(weight_C, 8, 2) == pytest.approx(np.log(4))
    assert ceiling(weight_C, 64, 2) == pytest.approx(np.log(7))
    q_CE = np.zeros((4, 8))
    q_CE[np.arange(8) // 2, np.arange(8)] = 0.5
    assert information(q_CE, np.full(4, 0.25)) == pytest.approx(ceiling(np.full(4, 0.25), 8, 2))
