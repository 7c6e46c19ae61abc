import numpy as np
import pytest
from random_routers import choose, documents, moody
from scipy.signal import lfilter

from deepseemoe.routing.counts import count_pairs, count_rows, count_triples
from deepseemoe.routing.paths import cross_layer, top_paths
from deepseemoe.routing.saturation import overlap, saturation


def smooth_router(rng, n_tokens, n_experts, top_k, memory=8):
    """A router whose preferences wander along the text, whatever the text is."""
    keep = 1 - 1 / memory
    steps = lfilter([(1 - keep**2) ** 0.5], [1, -keep], rng.normal(size=(n_tokens, n_experts)), 0)
    return choose(rng, n_tokens, n_experts, top_k, 2 * steps)


def test_layers_that_do_not_know_each_other_share_no_bits():
    """40 null worlds of wandering routers: lift 1, bits 0 on average, p uniform."""
    p, bits, raw, inside = [], [], [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        first, later = (smooth_router(rng, 1500, 8, 2) for _ in range(2))
        found = cross_layer(first, later, 8, document_T=np.arange(1500) // 30, n_shifts=39)
        p.append(found.information.p)
        bits.append(found.information.value)
        raw.append(found.information.raw)
        inside.append(((found.lift_lo_EE <= 1) & (found.lift_hi_EE >= 1)).mean())
    assert np.mean(np.array(p) <= 0.1) < 0.2
    assert 0.4 < np.mean(p) < 0.6
    assert abs(np.mean(bits)) < 0.15 * np.mean(raw)
    assert np.mean(inside) > 0.85


def test_joint_counts_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    first, later = choose(rng, 300, 6, 2), choose(rng, 300, 6, 3)
    found = cross_layer(first, later, 6, n_shifts=5)
    for a, b in ((0, 0), (2, 5), (5, 2)):
        of_a, of_b = (first == a).any(1), (later == b).any(1)
        assert found.n_tokens_EE[a, b] == (of_a & of_b).sum()
        assert found.p_later_given_first_EE[a, b] == pytest.approx(of_b[of_a].mean())
        assert found.lift_EE[a, b] == pytest.approx(of_b[of_a].mean() / of_b.mean())
    assert np.isnan(found.lift_lo_EE).all()


def test_layers_that_repeat_each_other_share_all_bits():
    ids = choose(np.random.default_rng(1), 8000, 8, 1)
    document = np.arange(8000) // 50
    found = cross_layer(ids, (ids + 3) % 8, 8, document_T=document, n_shifts=39)
    assert found.information.value == pytest.approx(3, abs=0.02)
    assert found.information.p == pytest.approx(1 / 40)
    assert found.information.low == pytest.approx(3, abs=0.02)
    assert found.lift_EE[2, 5] == pytest.approx(8, rel=0.1)
    assert found.lift_lo_EE[2, 5] < found.lift_EE[2, 5] < found.lift_hi_EE[2, 5]


def test_the_planted_path_is_the_first():
    rng = np.random.default_rng(2)
    layers = [choose(rng, 5000, 8, 2) for _ in range(3)]
    where = rng.random(5000) < 0.2
    for ids, expert in zip(layers, (4, 1, 6), strict=True):
        ids[where] = [expert, 7]
    found = top_paths(*layers, 8, n_paths=30)
    mixed = {tuple(path) for path in found.experts_X3[:8].tolist()}
    assert mixed == {(a, b, c) for a in (4, 7) for b in (1, 7) for c in (6, 7)}
    place = found.experts_X3.tolist().index([4, 1, 6])
    has = [(ids == expert).any(1) for ids, expert in zip(layers, (4, 1, 6), strict=True)]
    n = np.logical_and.reduce(has).sum()
    assert found.n_tokens_X[place] == n
    assert found.share_X[place] == pytest.approx(n / 5000)
    assert found.lift_X[place] == pytest.approx(n / 5000 / np.prod([one.mean() for one in has]))
    chain = (has[0] & has[1]).sum() * (has[1] & has[2]).sum() / has[1].sum()
    assert found.markov_lift_X[place] == pytest.approx(n / chain)
    assert (np.diff(found.n_tokens_X) <= 0).all()


def test_routers_of_unequal_text_are_refused():
    ids = choose(np.random.default_rng(3), 20, 4, 1)
    with pytest.raises(ValueError, match="layers have 20, 19 tokens; expected the same ones"):
        cross_layer(ids, ids[1:], 4)
    with pytest.raises(ValueError, match="expected .* of the same tokens"):
        saturation(ids, ids[1:], 4)


def test_compiled_counts_refuse_what_lies_outside_their_tables():
    ids = np.array([[0, 3], [1, 2]])
    with pytest.raises(ValueError, match="found experts 0 to 3, expected 0 to 2"):
        count_pairs(ids, ids, 3)
    with pytest.raises(ValueError, match="found experts -3 to 0"):
        count_triples(ids, -ids, ids, 4)
    with pytest.raises(ValueError, match="found rows 0 to 2, expected -1 to 1"):
        count_rows(np.array([0, 2]), ids, (2, 4))
    assert count_rows(np.array([-1, 1]), ids, (2, 4)).tolist() == [[0] * 4, [0, 1, 1, 0]]
    assert count_rows(np.array([0, 0]), ids, (1, 4), np.array([3, 0])).tolist() == [[3, 0, 0, 3]]


@pytest.mark.parametrize(("n_experts", "top_k"), [(64, 8), (64, 1), (16, 4)])
def test_unrelated_routers_are_saturated_by_chance(n_experts, top_k):
    """OLMoE's chance lines: 12.5 % for 8 of 64, 1.6 % for 1."""
    rng = np.random.default_rng(4)
    document = documents(rng, 100, 120)
    ids, final = (moody(rng, document, n_experts, top_k, mood=0.3) for _ in range(2))
    found = saturation(ids, final, n_experts, document_T=document)
    assert found.chance == top_k / n_experts
    assert found.low < found.chance < found.high
    assert found.chance_by_load == pytest.approx(found.chance, rel=0.05)
    assert saturation(final, final, n_experts).saturation == 1


def test_saturation_counts_common_experts_whatever_their_order():
    ids, final = np.array([[3, 1], [0, 2], [5, 4]]), np.array([[1, 3], [2, 7], [0, 1]])
    assert overlap(ids, final).tolist() == [2, 1, 0]
    assert saturation(ids, final, 8).saturation == pytest.approx(0.5)
    assert saturation(ids[:, :1], final[:, :1], 8).saturation == 0


def test_a_common_preference_raises_the_chance_by_load_and_not_more():
    rng = np.random.default_rng(5)
    preference = np.linspace(0, 3, 16)[None]
    ids, final = (choose(rng, 20_000, 16, 2, preference) for _ in range(2))
    found = saturation(ids, final, 16)
    assert found.saturation == pytest.approx(found.chance_by_load, rel=0.03)
    assert found.chance_by_load > 1.5 * found.chance
