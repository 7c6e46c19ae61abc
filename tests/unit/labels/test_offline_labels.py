"""The offline labeller names planted rules, finds none where there is none, and scores honestly."""

import json
from dataclasses import replace

import numpy as np
import pytest
from label_world import ID, N_RANDOM, PLANTED, make_matrix, make_reading
from scipy import sparse

from deepseemoe.features.halves import is_explaining
from deepseemoe.labels.counts import Firing
from deepseemoe.labels.fit.sets import Sets
from deepseemoe.labels.fit.task import Task
from deepseemoe.labels.offline import OfflineLabeller
from deepseemoe.labels.rules import TokenRule, from_json

RANDOM = range(len(PLANTED), len(PLANTED) + N_RANDOM)


@pytest.fixture(scope="module")
def reading():
    return make_reading()


@pytest.fixture(scope="module")
def matrix(reading):
    return make_matrix(reading)


@pytest.fixture(scope="module")
def labelled(reading, matrix):
    return label(reading, matrix)


def label(reading, matrix, seed=0):
    labeller = OfflineLabeller(reading, matrix, random=np.random.default_rng(seed))
    return labeller.label(range(matrix.shape[1]))


def rule_of(one):
    return from_json(json.loads(one.explanation.detail)["rule"])


@pytest.mark.parametrize("number", range(len(PLANTED)))
def test_a_planted_rule_gets_its_kind_and_a_high_score(labelled, number):
    one = labelled[number]
    assert one.explanation.kind == PLANTED[number]
    assert one.scores[0].balanced_accuracy > 0.9
    assert one.scores[0].lo > 0.75


def test_planted_rules_are_found_exactly(labelled):
    assert [one.explanation.label for one in labelled[: len(PLANTED)]] == [
        "token “def”, “class”",
        "right after “of”",
        "end of “the king”",
        "after “import” (within 3 tokens)",
        "domain code",
        "digits",
        "first 4 tokens of a segment",
    ]


def test_features_without_a_rule_get_no_clear_rule_and_chance_scores(labelled):
    for feature in RANDOM:
        assert labelled[feature].explanation.kind == "unclear"
        assert labelled[feature].explanation.label.startswith("no clear rule; top tokens “")
    scores = [labelled[feature].scores[0].balanced_accuracy for feature in RANDOM]
    assert abs(np.mean(scores) - 0.5) < 0.02


def test_permuted_labels_score_at_chance(reading):
    rng = np.random.default_rng(5)
    words = reading.token_ids[:, None] == np.arange(1, 41)
    matrix = sparse.csr_array((words & reading.is_valid[:, None]) * rng.gamma(3, 1, words.shape))
    found = label(reading, matrix)
    nulls = [one.nulls[0].balanced_accuracy for one in found]
    assert np.mean([one.scores[0].balanced_accuracy for one in found]) > 0.99
    assert abs(np.mean(nulls) - 0.5) < 0.03


def test_scores_are_those_of_the_rule_executed_on_held_out_documents(reading, matrix, labelled):
    held_out = ~is_explaining(reading.doc_ids) & reading.is_valid
    for feature in (*range(len(PLANTED)), *RANDOM[-3:]):
        covered = rule_of(labelled[feature]).applies(reading)[held_out]
        fires = matrix[:, [feature]].toarray()[held_out, 0] > 0
        balanced = (covered[fires].mean() + (~covered[~fires]).mean()) / 2
        score = labelled[feature].scores[0]
        assert score.balanced_accuracy == pytest.approx(balanced)
        assert (score.n_positive, score.n_negative) == (fires.sum(), (~fires).sum())
        assert score.lo <= balanced <= score.hi


def test_hard_scores_judge_tokens_of_the_same_types_only(reading, matrix, labelled):
    held_out = ~is_explaining(reading.doc_ids) & reading.is_valid
    for feature in (0, 1, 3, len(PLANTED) + 2):
        covered = rule_of(labelled[feature]).applies(reading)[held_out]
        fires = matrix[:, [feature]].toarray()[held_out, 0] > 0
        tokens = reading.token_ids[held_out]
        near = np.isin(tokens, tokens[fires]) & ~fires
        score = labelled[feature].scores[1]
        assert score.scorer == "hard"
        assert (score.n_positive, score.n_negative) == (fires.sum(), near.sum())
        balanced = (covered[fires].mean() + (~covered[near]).mean()) / 2
        assert score.balanced_accuracy == pytest.approx(balanced)


def test_halves_share_no_document_and_are_equally_large(reading):
    documents = np.unique(reading.doc_ids)
    assert 0.4 < is_explaining(documents).mean() < 0.6
    explaining = is_explaining(reading.doc_ids)
    shared = set(reading.doc_ids[explaining]) & set(reading.doc_ids[~explaining])
    assert not shared


def test_held_out_documents_change_no_rule(reading, matrix, labelled):
    held_out = ~is_explaining(reading.doc_ids)
    other = matrix.toarray()
    other[held_out] = (
        np.random.default_rng(3).permutation(other[held_out]) * reading.is_valid[held_out, None]
    )
    changed = label(reading, sparse.csr_array(other))
    assert [rule_of(one) for one in changed[: len(PLANTED)]] == [
        rule_of(one) for one in labelled[: len(PLANTED)]
    ]
    assert all(one.explanation.kind == "unclear" for one in changed)


def test_a_feature_of_one_document_is_scored_nowhere_and_called_unclear(reading):
    explained = np.flatnonzero(is_explaining(reading.doc_ids) & reading.is_valid)
    document = reading.doc_ids == reading.doc_ids[explained[0]]
    fires = (document & reading.is_valid)[:, None]
    found = label(reading, sparse.csr_array(fires.astype(np.float32)))[0]
    assert found.explanation.kind == "unclear"
    assert found.scores[0].balanced_accuracy is None
    assert found.scores[0].n_positive == 0


def test_a_token_seen_with_a_feature_in_one_document_only_makes_no_set(reading):
    king = (reading.token_ids == ID[" king"]) & reading.is_valid
    once = king & (reading.doc_ids == reading.doc_ids[king.argmax()])
    matrix = sparse.csr_array(np.stack([king, once], axis=1).astype(np.float32))
    tokens = Sets(reading, reading.token_ids.astype(np.int64), "token", TokenRule)
    found = tokens.fit(Task.of(Firing.of(matrix, [0, 1], reading.is_valid)))[0]
    assert found.rule(0) == TokenRule((ID[" king"],))
    assert found.merits[0] > 0.99
    assert found.merits[1] == -np.inf


def test_without_noise_every_planted_rule_scores_one(reading):
    found = label(reading, make_matrix(reading, noise=False))
    for number, kind in enumerate(PLANTED):
        assert found[number].explanation.kind == kind
        assert found[number].scores[0].balanced_accuracy == 1


def test_one_domain_alone_is_never_a_rule(reading):
    alone = replace(reading, domains=np.zeros_like(reading.domains))
    dense = reading.is_valid & (np.arange(len(reading.doc_ids)) % 3 > 0)
    found = label(alone, sparse.csr_array(dense[:, None].astype(np.float32)))[0]
    assert found.explanation.kind == "unclear"
    assert rule_of(found).kind != "domain"


def test_labels_are_the_same_every_time(reading, matrix, labelled):
    assert label(reading, matrix) == labelled
