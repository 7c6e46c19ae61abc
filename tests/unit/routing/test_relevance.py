import json
from fractions import Fraction

import numpy as np
import pytest
from published import needs

from deepseemoe.routing import legacy
from deepseemoe.routing.relevance import relevance, sample_relevance, select, select_layers

LAW, needs_law = needs("esft_routing", "law.npz")


def plain(ids_TLK, weights_TLK, n_experts):
    """The first release of ESFT's get_expert_scores.py, as plain Python."""
    n_layers, top_k = ids_TLK.shape[1:]
    token, gate = ([[0] * n_experts for _ in range(n_layers)] for _ in range(2))
    for ids_LK, weights_LK in zip(ids_TLK.tolist(), weights_TLK.tolist(), strict=True):
        for layer in range(n_layers):
            for expert, weight in zip(ids_LK[layer], weights_LK[layer], strict=True):
                gate[layer][expert] += weight
                token[layer][expert] += 1.0 / top_k
    for layer in range(n_layers):
        total = 0.0
        for value in token[layer]:
            total += value
        gate[layer] = [round(value / total, 4) for value in gate[layer]]
        token[layer] = [round(value / total, 4) for value in token[layer]]
    return token, gate


def plain_choice(scores, top_p):
    chosen, total = [], 0
    for expert, score in sorted(enumerate(scores), key=lambda pair: pair[1], reverse=True):
        if total >= top_p:
            break
        chosen.append(expert)
        total += score
    return chosen


def random_routing(seed, n_tokens, n_layers=3, n_experts=16, top_k=4):
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((n_tokens, n_layers, n_experts)), axis=-1)[..., :top_k]
    return ids, np.round(rng.random(ids.shape), 4)


@needs_law
def test_published_scores_and_experts_of_esft_are_met_to_the_last_digit():
    """deepseek-ai/ESFT results/ of law: 26 layers of 64 experts, 8,327 tokens."""
    law = np.load(LAW)
    published = json.loads(LAW.with_name("law.scores.json").read_text())
    chosen = json.loads(LAW.with_name("law.expert_config.json").read_text())["experts"]
    found = relevance(law["expert_ids"], law["weights_e4"] / 1e4, n_experts=64)
    for name, scores_LE in (("token_scores", found.token_LE), ("gate_scores", found.gate_LE)):
        expected = [list(published[name][str(n + 1)].values()) for n in range(26)]
        assert scores_LE.tolist() == expected
    experts = select_layers(found.token_LE)
    assert {str(n + 1): one.tolist() for n, one in enumerate(experts)} == chosen


@needs_law
def test_the_published_scores_of_esft_are_not_those_of_its_later_code():
    law = np.load(LAW)
    published = json.loads(LAW.with_name("law.scores.json").read_text())["token_scores"]
    late = legacy.relevance_over_layers(law["expert_ids"], law["weights_e4"] / 1e4, n_experts=64)
    np.testing.assert_allclose(late.token_LE.sum(0), 1, atol=2e-3)
    assert all(late.token_LE[n].tolist() != list(published[str(n + 1)].values()) for n in range(26))


@pytest.mark.parametrize("n_tokens", [1, 16, 48, 160, 1000, 4096])
def test_scores_are_those_of_the_released_loop_also_where_they_tie(n_tokens):
    """4-decimal weights over an even number of tokens hit exact halves of the fourth decimal."""
    for seed in range(10):
        ids, weights = random_routing(seed, n_tokens)
        found = relevance(ids, weights, n_experts=16)
        token, gate = plain(ids, weights, 16)
        assert found.token_LE.tolist() == token
        assert found.gate_LE.tolist() == gate
        for layer in range(3):
            for top_p in (0.1, 0.2, 0.5):
                expected = plain_choice(token[layer], top_p)
                assert select(found.token_LE[layer], top_p).tolist() == expected


def test_ties_of_the_fourth_decimal_do_occur_and_numpy_would_round_some_otherwise():
    ids, weights = random_routing(3, 16, n_layers=40)
    exact = relevance(ids, weights, decimals=None).gate_LE
    halves = [v for v in exact.ravel().tolist() if (Fraction(round(v * 1e6)) / 50) % 2 == 1]
    assert len(halves) > 20
    assert any(round(v, 4) != np.round(v, 4) for v in halves)


def test_a_layer_takes_the_fewest_experts_that_reach_the_share():
    assert select(np.array([0.05, 0.12, 0.08, 0.75]), 0.9).tolist() == [3, 1, 2]
    assert select(np.array([0.25, 0.25, 0.25, 0.25]), 0.5).tolist() == [0, 1]
    assert select(np.array([0.1, 0.2, 0.1]), 0.9).tolist() == [1, 0, 2]  # never reached: all


def test_scores_of_a_uniform_router_are_one_over_the_number_of_experts():
    ids, weights = random_routing(0, 20_000)
    found = relevance(ids, weights, decimals=None)
    np.testing.assert_allclose(found.token_LE, 1 / 16, rtol=0.05)
    np.testing.assert_allclose(found.gate_LE, 0.5 * 4 / 16, rtol=0.05)
    np.testing.assert_allclose(found.token_LE.sum(1), 1)


def test_the_papers_form_is_a_mean_of_means():
    ids, weights = random_routing(1, 90)
    sample = np.repeat(["a", "b", "c"], [50, 30, 10])
    found = sample_relevance(ids, weights, sample, n_experts=16, decimals=None)
    parts = [
        relevance(ids[sample == name], weights[sample == name], n_experts=16, decimals=None)
        for name in "abc"
    ]
    for name in ("token_LE", "gate_LE"):
        expected = np.mean([getattr(part, name) for part in parts], axis=0)
        np.testing.assert_allclose(getattr(found, name), expected)
    same = sample_relevance(ids, weights, np.arange(90) // 30, n_experts=16, decimals=None)
    whole = relevance(ids, weights, n_experts=16, decimals=None)
    np.testing.assert_allclose(same.gate_LE, whole.gate_LE)


@pytest.mark.parametrize(
    ("ids", "weights", "message"),
    [
        (np.zeros((3, 2), int), np.zeros((3, 2)), "expected whole numbers of shape"),
        (np.zeros((3, 1, 2)), np.zeros((3, 1, 2)), "expected whole numbers"),
        (np.zeros((3, 1, 2), int), np.zeros((3, 1, 1)), "expected shape .* of ids"),
        (np.zeros((3, 1, 2), int), np.full((3, 1, 2), np.nan), "not finite"),
        (np.full((3, 1, 2), 16), np.zeros((3, 1, 2)), "found experts 16 to 16, expected 0 to 15"),
        (np.zeros((0, 1, 2), int), np.zeros((0, 1, 2)), "expected whole numbers of shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(ids, weights, message):
    with pytest.raises(ValueError, match=message):
        relevance(ids, weights, n_experts=16)
    with pytest.raises(ValueError, match="top_p 0: expected a share"):
        select(np.ones(3), 0)
