import numpy as np
import pytest

from deepseemoe.experts.agreement import agreement_rows, calibration, chance_overlap


def layer(n_pairs=400, *, tied=True, seed=0):
    """Return rows of one expert whose kinds of evidence agree, or have nothing in common."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n_pairs)
    noise = rng.normal(size=(3, n_pairs)) * (0.3 if tied else 1)
    beta, weights, causal = (truth if tied else 0) + noise
    return {
        "expert": np.zeros(n_pairs, int),
        "beta_sel": beta,
        "w_map": weights,
        "causal_dp": causal,
        "causal_dp_lo": causal - 0.5,
    }


def test_kinds_that_agree_are_told_so_and_others_lie_at_chance():
    agree = agreement_rows(3, layer())
    assert [(row["one"], row["other"]) for row in agree] == [
        ("regression", "weights"), ("regression", "causal"), ("weights", "causal")]  # fmt: skip
    assert all(row["spearman"] > 0.8 and row["sign_agreement"] > 0.8 for row in agree)
    assert all(row["jaccard_20"] > 10 * row["chance_20"] for row in agree)
    found = [row for seed in range(20) for row in agreement_rows(3, layer(tied=False, seed=seed))]
    assert abs(np.mean([row["spearman"] for row in found])) < 0.03
    assert np.mean([row["sign_agreement"] for row in found]) == pytest.approx(0.5, abs=0.03)
    overlap = np.mean([row["jaccard_50"] for row in found])
    assert overlap == pytest.approx(chance_overlap(400, 50), rel=0.15)


def test_the_chance_line_is_the_mean_over_random_choices():
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(4000):
        one, other = (set(rng.choice(60, 20, replace=False)) for _ in range(2))
        drawn.append(len(one & other) / len(one | other))
    assert chance_overlap(60, 20) == pytest.approx(np.mean(drawn), rel=0.02)


def test_too_few_pairs_have_a_reason_and_no_number():
    rows = agreement_rows(0, layer(4))
    assert all(row["spearman"] is None and "fewer than 5" in row["reason"] for row in rows)


def test_calibration_rises_where_evidence_agrees_and_is_flat_where_not():
    rising = [one["share_causal"] for one in calibration(layer(2000))]
    assert rising[-1] > 0.9
    assert rising[0] < 0.02
    flat = [one["share_causal"] for one in calibration(layer(2000, tied=False))]
    assert np.ptp(flat) < 0.2
    assert calibration(layer(5)) == []
