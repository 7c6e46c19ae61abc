"""Rules drawn at random in another text are found; where nothing is planted nothing is claimed."""

import numpy as np
import pytest
from rule_world import COMPOUND, FURTHER, SIMPLE, draw, make_matrix, make_reading
from scipy import sparse

from deepseemoe.features.halves import is_explaining
from deepseemoe.labels.offline import OfflineLabeller

SEEDS = (1, 2)
FEWEST = 60
"""Held-out activations of a feature that says anything of the labeller."""


@pytest.fixture(scope="module", params=SEEDS)
def world(request):
    """Return the text, and for each planted feature its rule, true score and label."""
    reading = make_reading(request.param, n_tokens=40_000)
    rng = np.random.default_rng([request.param, 3])
    rules = [draw(kind, rng) for kind in (*SIMPLE, *COMPOUND, *FURTHER)]
    matrix, held = make_matrix(rules, reading, request.param)
    labelled = label(reading, matrix)
    held_out = ~is_explaining(reading.doc_ids) & reading.is_valid
    fires = matrix.toarray()[held_out] > 0
    rows = []
    for feature, rule in enumerate(rules):
        on, true = fires[:, feature], held[held_out, feature]
        if on.sum() >= FEWEST:
            best = (true[on].mean() + (~true[~on]).mean()) / 2
            rows.append((rule[0], best, labelled[feature]))
    return reading, rows


def label(reading, matrix):
    labeller = OfflineLabeller(reading, matrix, random=np.random.default_rng(0))
    return labeller.label(range(matrix.shape[1]))


def lost(rows, kinds):
    """Return by how much labels of some kinds of features score less than the true rules."""
    return np.array([best - one.scores[0].balanced_accuracy for k, best, one in rows if k in kinds])


def test_simple_rules_score_as_the_true_ones_do(world):
    found = lost(world[1], SIMPLE)
    assert len(found) > 20
    assert (found < 0.02).mean() >= 0.95


def test_simple_rules_are_named_by_a_right_kind(world):
    simple = [(kind, one.explanation.kind) for kind, _, one in world[1] if kind in SIMPLE]
    assert np.mean([found in SIMPLE[kind] for kind, found in simple]) >= 0.95


def test_rules_of_two_parts_lose_little(world):
    found = lost(world[1], COMPOUND)
    assert len(found) > 5
    assert (found < 0.02).mean() >= 0.7
    assert found.mean() < 0.03


def test_rules_that_cannot_be_stated_lose_a_bit_and_are_still_described(world):
    further = [one for kind, _, one in world[1] if kind in FURTHER]
    assert lost(world[1], FURTHER).mean() < 0.08
    assert np.mean([one.explanation.status == "labelled" for one in further]) > 0.8


def test_features_without_a_rule_are_called_clear_at_most_at_the_nominal_rate(world):
    reading = world[0]
    matrix = sparse.hstack([null(reading, n_features=100, seed=4, is_burst=b) for b in (0, 1)])
    found = label(reading, sparse.csr_array(matrix))
    clear = [one.explanation.status == "labelled" for one in found]
    assert np.mean(clear[:100]) <= 0.025 + 2 * np.sqrt(0.025 * 0.975 / 100)
    assert np.mean(clear[100:]) <= 0.025 + 2 * np.sqrt(0.025 * 0.975 / 100)


def null(reading, *, n_features, seed, is_burst):
    """Return activations at random, of densities 0.0005 to 0.1; in bursts of tokens or spread."""
    rng = np.random.default_rng([seed, is_burst])
    n_tokens = len(reading.token_ids)
    fires = np.zeros((n_tokens, n_features), bool)
    for feature, density in enumerate(np.geomspace(0.0005, 0.1, n_features)):
        length = 12 if is_burst else 1
        starts = rng.integers(0, n_tokens - length, max(int(density * n_tokens / length), 3))
        fires[(starts[:, None] + np.arange(length)).ravel(), feature] = True
    return sparse.csr_array((fires & reading.is_valid[:, None]).astype(np.float32))
