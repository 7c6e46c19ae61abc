"""What is planted is found: features beyond the token, the token alone, or nothing."""

import numpy as np
import planted
import pytest
from prediction_worlds import score, token_world


def covers(row, key, value=0.0):
    return row[f"{key}_lo"] <= value <= row[f"{key}_hi"]


@pytest.mark.parametrize("seed", range(2))
def test_features_win_where_the_router_reads_them(seed):
    rows = score(token_world(seed, beyond=1.0))
    both, own = rows["unigram+features"], rows["unigram+own"]
    assert both["over_unigram_lo"] > 0
    assert own["given_token_lo"] > 0
    assert both["f1_lo"] > rows["unigram"]["f1_hi"]
    assert both["auroc"] > rows["unigram"]["auroc"]


def test_features_of_the_realistic_world_beat_tokens_and_pairs():
    rows = score(planted.world(0, n_documents=120))
    assert rows["features"]["f1_lo"] > max(rows[n]["f1_hi"] for n in ("unigram", "bigram"))
    assert rows["features"]["bits_lo"] > rows["bigram"]["bits_hi"]
    assert rows["unigram+own"]["given_token_lo"] > 0.1


def test_the_gain_grows_with_what_features_add():
    gains = [score(token_world(5, beyond=b))["unigram+own"]["given_token"] for b in (0.15, 0.5, 2)]
    assert gains == sorted(gains)
    assert gains[0] > 0.005


def test_features_add_nothing_where_the_router_reads_the_token():
    """At most 3 of 12 intervals of nominal 95 % may miss; 4 have a chance of .002."""
    rows = [score(token_world(seed), seed) for seed in range(12)]
    assert sum(not covers(r["unigram+own"], "given_token") for r in rows) <= 3
    assert abs(np.mean([r["unigram+own"]["given_token"] for r in rows])) < 1e-3
    assert all(r["unigram"]["bits_lo"] > 0.3 for r in rows)


def test_features_that_name_the_token_equal_the_unigram():
    world = token_world(3)
    named = np.eye(world.token_T.max() + 1, dtype=np.float32)[world.token_T]
    rows = score(world._replace(features_TF=type(world.features_TF)(named)))
    assert rows["features"]["bits"] == pytest.approx(rows["unigram"]["bits"], rel=0.03)
    assert rows["features"]["f1"] == pytest.approx(rows["unigram"]["f1"], abs=0.01)
    assert covers(rows["unigram+own"], "given_token")


@pytest.mark.parametrize("document_level", [0.0, 0.5])
def test_nothing_predicts_routing_that_reads_nothing(document_level):
    options = {"n_documents": 80, "n_features": 40, "document_level": document_level}
    rows = [score(planted.null_world(seed, **options), seed) for seed in range(6)]
    for name in ("unigram", "bigram", "features", "unigram+features", "unigram+own"):
        assert max(r[name]["bits"] for r in rows) < 0.005
        assert np.mean([r[name]["bits"] for r in rows]) < 1e-3
        assert abs(np.mean([r[name]["f1"] - r[name]["f1_chance"] for r in rows])) < 0.01
    assert sum(not covers(r["unigram+own"], "given_token") for r in rows) <= 2


def test_the_base_rate_is_at_chance():
    base = score(token_world(1))["base"]
    assert (base["bits"], base["auroc"]) == (0, 0.5)
    assert base["f1"] == pytest.approx(base["f1_chance"])
