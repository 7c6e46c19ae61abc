"""The parts of predictors against plain slow code and other libraries."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from prediction_worlds import sample_of, token_world
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss, roc_auc_score

from deepseemoe.prediction.counts import Grouped, smoothed
from deepseemoe.prediction.designs import Components, Dense, Sparse, scaled
from deepseemoe.prediction.measures import BITS, F1, Draws, Predicted, auroc, losses, mean_bits
from deepseemoe.prediction.partners import NO_PARTNER, partners
from deepseemoe.prediction.probes import Examples, fit_best, fit_probe
from deepseemoe.prediction.sample import CHOOSE, FIT, TEST, split

RNG = np.random.default_rng(0)


def examples(design, chosen_TE):
    chosen = torch.from_numpy(chosen_TE.astype(np.float32))
    return Examples(design, chosen, torch.zeros_like(chosen), np.arange(len(chosen)) // 10)


@pytest.mark.parametrize("penalty", [30.0, 3.0])
@pytest.mark.parametrize("form", [Sparse, Dense])
def test_a_probe_is_the_logistic_regression_of_scikit_learn(penalty, form):
    inputs = RNG.normal(size=(800, 12)) * (RNG.random((800, 12)) < 0.3)
    inputs = inputs.astype(np.float32)
    chosen = RNG.random((800, 2)) < 1 / (1 + np.exp(1 - inputs[:, :2] * [[3, -1]]))
    design = form(sp.csr_array(inputs) if form is Sparse else torch.from_numpy(inputs), "cpu")
    # An offset of 0 leaves slopes without effect, so the two minimise the same.
    probe = fit_probe(examples(design, chosen), penalty)
    for expert in range(2):
        other = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=1000)
        other.fit(inputs, chosen[:, expert])
        assert np.allclose(probe.weights_FE[:, expert], other.coef_[0], atol=0.02)
        assert float(probe.bias_E[expert]) == pytest.approx(other.intercept_[0], abs=0.02)


def test_inputs_that_tell_nothing_get_no_weights():
    noise = [Dense(torch.from_numpy(RNG.normal(size=(300, 200)).astype(np.float32)), "cpu")
             for _ in range(2)]  # fmt: skip
    chosen = [RNG.random((300, 3)) < 0.5 for _ in range(2)]
    fit, choose = (examples(*both) for both in zip(noise, chosen, strict=True))
    probe = fit_best(fit, choose, penalties=(30.0, 3.0))
    assert np.isinf(probe.penalty)
    assert not probe.weights_FE.any()


def test_an_offset_is_added_before_weights():
    """What is known already is not learned again."""
    x = torch.from_numpy(RNG.normal(size=(4000, 1)).astype(np.float32))
    chosen = torch.from_numpy(RNG.random((4000, 1)) < torch.sigmoid(2 * x).numpy()).float()
    probe = fit_probe(Examples(Dense(x, "cpu"), chosen, 2 * x, np.zeros(4000, int)), 30.0)
    assert abs(float(probe.weights_FE)) < 0.2
    assert float(probe.slope_E) == pytest.approx(1, abs=0.1)


def test_sparse_and_dense_designs_give_the_same_products():
    inputs = sp.random_array((70, 9), density=0.3, rng=1, dtype=np.float32, format="csr")
    dense = torch.from_numpy(inputs.toarray())
    table, residual = torch.randn(9, 4), torch.randn(70, 4)
    for design in (Sparse(inputs, "cpu"), Dense(dense, "cpu")):
        assert torch.allclose(design.times(table), dense @ table, atol=1e-5)
        assert torch.allclose(design.adjoint(residual), dense.t() @ residual, atol=1e-5)
        assert torch.allclose(design.mean_square_F, dense.square().mean(0), atol=1e-6)


def test_features_are_scaled_by_fit_tokens_alone():
    features = sp.csr_array(np.array([[2.0, 0, 0], [4.0, 0, 1], [0, 0, 100.0]], np.float32))
    made = scaled(features, np.array([0, 1])).toarray()
    assert np.allclose(made, [[2 / 3, 0], [4 / 3, 1], [0, 100]])


def test_components_are_uncorrelated_and_of_falling_variance():
    mixed = torch.from_numpy(RNG.normal(size=(500, 6)) @ RNG.normal(size=(6, 6)) + 3)
    rows = np.arange(400)
    made = Components.of(mixed.float(), rows, "cpu")(mixed.float(), 6)[rows].double()
    covariance = made.t() @ made / 400
    assert torch.allclose(covariance, covariance.diag().diag(), atol=1e-3)
    assert (covariance.diag().diff() <= 1e-4).all()
    assert float(covariance.trace()) == pytest.approx(6, abs=1e-3)


def test_counts_of_fit_tokens_leave_their_document_out():
    groups, documents = RNG.integers(0, 5, 200), np.sort(RNG.integers(0, 9, 200))
    chosen = (RNG.random((200, 3)) < 0.4).astype(np.float32)
    held = Grouped.of(groups, documents, chosen)
    for row in range(0, 200, 7):
        others = (groups == groups[row]) & (documents != documents[row])
        assert held.fit[0][row, 0] == others.sum()
        assert np.allclose(held.fit[1][row], chosen[others].sum(0))
    unknown = held.counts.at(np.array([99]))
    assert np.allclose(smoothed(unknown, np.full((1, 3), 0.25), 4.0), 0.25)


def test_partners_are_the_same_token_in_another_document_one_to_one():
    tokens, documents = RNG.zipf(1.5, 2000) % 60, np.sort(RNG.integers(0, 40, 2000))
    partner = partners(tokens, documents, seed=0)
    has = np.flatnonzero(partner != NO_PARTNER)
    assert np.array_equal(np.sort(partner[has]), has)
    assert (tokens[partner[has]] == tokens[has]).all()
    assert (documents[partner[has]] != documents[has]).all()
    alone = [t for t in np.unique(tokens) if np.unique(documents[tokens == t]).size == 1]
    assert (partner[np.isin(tokens, alone)] == NO_PARTNER).all()


def test_no_document_is_in_two_parts_and_other_documents_do_not_move_it_far():
    ids, lengths = np.arange(1000), np.full(1000, 10)
    taken, part = split(ids, lengths, n_tokens=5000, seed=0)
    assert taken.sum() == 500
    assert np.bincount(part[taken]).tolist() == [250, 100, 150]
    again, same = split(ids[::-1], lengths, n_tokens=5000, seed=0)
    assert np.array_equal(taken, again[::-1])
    assert np.array_equal(part[taken], same[::-1][taken])
    assert not np.array_equal(taken, split(ids, lengths, n_tokens=5000, seed=1)[0])


def test_the_parts_of_a_sample_cover_its_tokens():
    sample = sample_of(token_world(0))
    rows = [sample.rows(part) for part in (FIT, CHOOSE, TEST)]
    assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(sample.token_ids_T.size))
    assert all(rows[a].size > rows[b].size for a, b in ((FIT, TEST), (TEST, CHOOSE)))


@pytest.fixture
def predicted():
    documents = np.sort(RNG.integers(0, 12, 600))
    documents = np.unique(documents, return_inverse=True)[1]
    logits = np.round(RNG.normal(size=(600, 5)), 1)  # some are equal
    best = np.argsort(-(logits + RNG.normal(size=(600, 5))), axis=1)[:, :2]
    chosen = np.zeros((600, 5), np.float32)
    np.put_along_axis(chosen, best, 1, axis=1)
    return Predicted(logits, chosen, documents)


def test_scores_are_those_of_scikit_learn(predicted):
    n = predicted.documents_T.max() + 1
    top = np.argsort(-predicted.logits_TE, axis=1, kind="stable")[:, :2]
    label = np.zeros_like(predicted.chosen_TE)
    np.put_along_axis(label, top, 1, axis=1)
    macro = f1_score(predicted.chosen_TE, label, average="macro")
    f1 = F1.of(predicted, 2, n)
    assert f1.drawn(np.ones((1, n))).mean() == pytest.approx(macro)
    area, terms = auroc(predicted, n)
    assert area.mean() == pytest.approx(roc_auc_score(predicted.chosen_TE, predicted.logits_TE))
    assert np.allclose(terms.sum(0), 0)
    p = 1 / (1 + np.exp(-predicted.logits_TE))
    nats = np.mean([log_loss(predicted.chosen_TE[:, e], p[:, e]) for e in range(5)])
    assert losses(predicted).mean() == pytest.approx(nats * BITS)


def test_chance_is_the_f1_of_shuffled_predictions(predicted):
    n = predicted.documents_T.max() + 1
    chance = F1.of(predicted, 2, n).chance_E().mean()
    shuffled = []
    for _ in range(50):
        logits = predicted.logits_TE[RNG.permutation(600)]
        f1 = F1.of(predicted._replace(logits_TE=logits), 2, n)
        shuffled.append(f1.drawn(np.ones((1, n))).mean())
    assert np.mean(shuffled) == pytest.approx(chance, abs=0.01)


def test_the_intervals_of_auroc_are_those_of_drawn_documents(predicted):
    n = predicted.documents_T.max() + 1
    draws = Draws.of(n, n_draws=300, confidence=0.95, seed=0)
    area, terms = auroc(predicted, n)
    quick = (area + draws.counts_BD @ terms).mean(1)
    slow = []
    for counts in draws.counts_BD.astype(int):
        pieces = [np.flatnonzero(predicted.documents_T == d) for d in np.repeat(range(n), counts)]
        slow.append(auroc(predicted.only(np.concatenate(pieces)), n)[0].mean())
    assert quick.std() == pytest.approx(np.std(slow), rel=0.15)


def test_intervals_of_bits_cover_the_mean_of_documents():
    """At least 186 of 200 intervals of nominal 95 % cover; fewer have a chance of .04."""
    rng, hits = np.random.default_rng(1), 0
    for seed in range(200):
        draws = Draws.of(40, n_draws=200, confidence=0.95, seed=seed)
        tokens = rng.integers(20, 60, 40)
        saved = tokens[:, None] * (0.1 + rng.normal(0, 0.2, (40, 1)))
        found = mean_bits(saved, tokens, np.array([0]), draws)
        hits += found.lo <= 0.1 <= found.hi
    assert hits >= 182
