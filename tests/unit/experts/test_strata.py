import numpy as np
import planted
import pytest
from planted_shards import shards

from deepseemoe.experts import strata
from deepseemoe.experts.join import join
from deepseemoe.experts.statistics import log_odds_ratio


def joined_of(world, n_shards=2):
    parts = shards(world, n_shards)
    return join(
        parts.features, parts.stores, layers=(1,), n_experts=world.n_experts, block_tokens=900
    )


@pytest.mark.parametrize("entries", [1 << 26, 500])
def test_sums_equal_the_tables_of_every_type(monkeypatch, entries):
    monkeypatch.setattr(strata, "ENTRIES", entries)
    world = planted.world(1, n_documents=40, n_features=20, n_experts=6, top_k=2)
    found = strata.count_strata(joined_of(world), np.arange(20))
    fires_TF = world.features_TF.toarray() > 0
    chosen_TE = np.zeros((len(fires_TF), 6), bool)
    np.put_along_axis(chosen_TE, world.experts_TLK[:, 0].astype(int), True, axis=1)
    agree, differ = np.zeros((2, 20, 6))
    for token in np.unique(world.token_T):
        a, y = fires_TF[world.token_T == token, :, None], chosen_TE[world.token_T == token, None]
        if len(a) >= 4:
            agree += (a & y).sum(0) * (~a & ~y).sum(0) / len(a)
            differ += (a & ~y).sum(0) * (~a & y).sum(0) / len(a)
    np.testing.assert_allclose(found.agree, agree, rtol=1e-9)
    np.testing.assert_allclose(found.differ, differ, rtol=1e-9)


def token_world(*, within: float):
    """Return firings and choices that both hang on the token, and within tokens on one another."""
    rng = np.random.default_rng(0)
    token_T = rng.integers(60, size=40_000)
    fires_T = rng.random(token_T.size) < np.where(token_T < 20, 0.5, 0.05)
    odds = np.where(token_T < 20, 1.0, -1.5) + within * fires_T
    chosen_T = rng.random(token_T.size) < 1 / (1 + np.exp(-odds))
    world = planted.null_world(0, n_documents=20, n_features=1, n_experts=2, top_k=1)
    return world._replace(
        document_T=np.repeat(np.arange(40), 1000),
        token_T=token_T,
        features_TF=type(world.features_TF)(fires_T[:, None].astype(np.float32)),
        experts_TLK=chosen_T[:, None, None].astype(np.uint8),
        weights_TLK=np.ones((token_T.size, 1, 1), np.float16),
    )


@pytest.mark.parametrize("within", [0.0, 1.0])
def test_only_what_goes_beyond_the_token_is_left(within):
    world = token_world(within=within)
    fires, chosen = world.features_TF.toarray()[:, 0] > 0, world.experts_TLK[:, 0, 0] == 1
    margins = np.array([fires.sum()]), np.array([chosen.sum()]), fires.size
    plain = log_odds_ratio(np.array([(fires & chosen).sum()]), *margins)
    left = strata.log_odds_within(strata.count_strata(joined_of(world), np.arange(1)))[0][0, 1]
    assert plain > 1.2
    assert left == pytest.approx(within, abs=0.12)
    share = strata.token_share(plain, left[None])
    assert (share > 0.8) == (within == 0)


def test_a_feature_that_is_the_token_leaves_nothing_to_compare():
    world = token_world(within=0.0)
    fires = (world.token_T < 3).astype(np.float32)[:, None]
    world = world._replace(features_TF=type(world.features_TF)(fires))
    within = strata.log_odds_within(strata.count_strata(joined_of(world), np.arange(1)))[0]
    assert np.isnan(within).all()
    assert (strata.token_share(np.ones((1, 2)), within) == 1).all()
