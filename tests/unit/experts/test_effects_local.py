"""Local effects: planted truth, plain re-computation, a null, and routers of all kinds."""

from typing import NamedTuple

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy import stats

from deepseemoe.experts.effect_sums import EffectSums
from deepseemoe.experts.effects_local import Sampler, choice_of, local_effects


class Routed(NamedTuple):
    scores_TE: torch.Tensor
    ids_TK: torch.Tensor


def linear_route(router_ED, top_k, *, bias_E=0.0):
    """Return a route: RMS norm, linear read-out, softmax plus a selection bias, top k."""

    def route(x_TD):
        x_TD = x_TD / x_TD.square().mean(1, keepdim=True).sqrt()
        scores_TE = (x_TD @ router_ED.T).softmax(1) + bias_E
        return Routed(scores_TE, scores_TE.topk(top_k, dim=1).indices)

    return route


def world(seed, *, n_tokens=600, n_features=7, n_experts=6, width=16, length=20):
    rng = np.random.default_rng(seed)
    active = rng.random((n_tokens, n_features)) < 0.2
    z_TF = sp.csr_array(np.where(active, rng.uniform(0.5, 2, active.shape), 0).astype(np.float32))
    directions_FD = rng.normal(size=(n_features, width)).astype(np.float32)
    residual_TD = (z_TF @ directions_FD + rng.normal(size=(n_tokens, width))).astype(np.float32)
    router_ED = rng.normal(size=(n_experts, width)).astype(np.float32)
    parts = residual_TD, directions_FD, router_ED
    return z_TF, np.arange(n_tokens) // length, *(torch.from_numpy(part) for part in parts)


def plain(z_TF, residual_TD, directions_FD, router_ED, feature, expert, top_k, bias_E):
    """Return the changes of choice and margin on all firing tokens of a pair, one by one."""
    changes = {}
    for token in np.flatnonzero(z_TF.toarray()[:, feature]):
        pair = []
        for z in (0.0, z_TF[token, feature]):
            x = residual_TD[token].double() - float(z) * directions_FD[feature].double()
            logits = router_ED.double() @ (x / (x @ x / len(x)) ** 0.5)
            scores = (torch.exp(logits) / torch.exp(logits).sum()).numpy() + bias_E
            others = np.sort(np.delete(scores, expert))[::-1]
            pair.append((scores[expert] > others[top_k - 1], scores[expert] - others[top_k - 1]))
        changes[token] = np.subtract(*np.array(pair, float))
    return changes


def test_effects_equal_a_plain_recomputation_token_by_token():
    z_TF, document_T, residual_TD, directions_FD, router_ED = world(0)
    bias_E = np.random.default_rng(5).normal(size=6).astype(np.float32) * 0.1
    found = local_effects(
        residual_TD,
        features_TF=z_TF,
        document_T=document_T,
        directions_FD=directions_FD,
        route=linear_route(router_ED, 2, bias_E=torch.from_numpy(bias_E)),
    )
    for feature, expert in [(0, 0), (1, 3), (2, 5), (6, 2)]:
        changes = plain(
            z_TF, residual_TD, directions_FD, router_ED, feature, expert, 2, bias_E.astype(float)
        )
        values = np.array(list(changes.values()))
        documents = document_T[list(changes)]
        assert found.n_F[feature] == len(changes)
        for kind, (mean, low, high) in enumerate(
            [(found.dp, found.dp_lo, found.dp_hi), (found.dm, found.dm_lo, found.dm_hi)]
        ):
            value = values[:, kind]
            np.testing.assert_allclose(mean[feature, expert], value.mean(), atol=1e-5)
            u_D = np.bincount(documents, value - value.mean()) / value.size
            n_D = np.bincount(documents)
            clusters = n_D.sum() ** 2 / (n_D**2).sum()
            error = np.sqrt((u_D**2).sum() * clusters / (clusters - 1))
            half = stats.t.ppf(0.975, clusters - 1) * error
            np.testing.assert_allclose(high[feature, expert], value.mean() + half, atol=1e-4)
            np.testing.assert_allclose(low[feature, expert], value.mean() - half, atol=1e-4)


def test_a_feature_in_the_row_of_a_router_calls_that_expert_and_no_other_direction_does():
    """Feature f is what expert f reads; the last feature is orthogonal to all that routers read."""
    width, n_experts = 12, 6
    z_TF, document_T, *_ = world(1, n_features=7, width=width)
    noise_TD = torch.from_numpy(np.random.default_rng(1).normal(size=(600, width))).float()
    basis_DD = torch.linalg.qr(noise_TD[:width])[0]
    directions_FD, router_ED = 5 * basis_DD[:7], basis_DD[:n_experts]
    residual_TD = torch.from_numpy(z_TF @ directions_FD.numpy()) + 0.3 * noise_TD
    found = local_effects(
        residual_TD,
        features_TF=z_TF,
        document_T=document_T,
        directions_FD=directions_FD,
        route=linear_route(router_ED, 2),
    )
    is_called = np.eye(7, 6, dtype=bool)
    assert (found.dp[is_called] > 0.5).all()
    assert (found.dp_lo[is_called] > 0.4).all()
    assert (found.dm_lo[is_called] > 0).all()
    assert found.dp[~is_called].max() < 0.1
    np.testing.assert_array_equal(found.dp[6], 0)  # its norm changes, which moves no order
    np.testing.assert_allclose(found.dp.sum(1), 0, atol=1e-12)  # as many are chosen as before


def test_intervals_of_a_null_effect_miss_0_at_the_nominal_rate():
    """With z d half added or half missing, by the coin of a document, both are the same by law."""
    misses, wide = [], []
    for seed in range(40):
        rng = np.random.default_rng([seed, 7])
        z_TF, _, noise_TD, directions_FD, router_ED = world(
            seed, n_tokens=2000, n_features=5, width=16
        )
        document_T = np.repeat(np.arange(2000), rng.integers(4, 40, 2000))[:2000]
        coin_DF = rng.choice([-1.0, 1.0], size=(2000, 5))
        signed_TF = sp.csr_array(z_TF.multiply(coin_DF[document_T])).astype(np.float32)
        effects = []
        for feature in range(5):  # one at a time: the halves of others would be no null
            one_TF = sp.csr_array(signed_TF[:, [feature]])
            added = torch.from_numpy(one_TF @ directions_FD[[feature]].numpy() / 2)
            effects.append(
                local_effects(
                    noise_TD + added,
                    features_TF=one_TF,
                    document_T=document_T,
                    directions_FD=directions_FD[[feature]],
                    route=linear_route(router_ED, 2),
                    n_tokens=100,
                )
            )
        misses += [(one.dp_lo > 0) | (one.dp_hi < 0) for one in effects]
        misses += [(one.dm_lo > 0) | (one.dm_hi < 0) for one in effects]
        wide += [one.dp_hi - one.dp_lo for one in effects]
    assert np.mean(wide) > 0.05
    assert 0.025 < np.mean(misses) < 0.075


def test_the_sample_has_the_wanted_size_equal_chances_and_is_spread_over_documents():
    rng = np.random.default_rng(0)
    z_TF = sp.csr_array((rng.random((4000, 3)) < [0.5, 0.05, 0.01]).astype(np.float32))
    counts = np.bincount(z_TF.indices, minlength=3)
    taken = np.zeros(4000)
    for seed in range(200):
        sampler = Sampler(counts, 100, seed=seed)
        _, features, _ = (
            np.concatenate(parts)
            for parts in zip(*(sampler.take(z_TF[a : a + 500]) for a in range(0, 4000, 500)),
                             strict=True)
        )  # fmt: skip
        np.testing.assert_allclose(np.bincount(features), np.minimum(counts, 100), atol=1)
        whole = Sampler(counts, 100, seed=seed).take(z_TF)
        np.testing.assert_array_equal(whole.feature_I.size, features.size)
        taken[whole.row_I[whole.feature_I == 0]] += 1
        gaps = np.diff(np.flatnonzero(np.isin(z_TF[:, [0]].nonzero()[0],
                                              whole.row_I[whole.feature_I == 0])))  # fmt: skip
        assert gaps.max() - gaps.min() <= 1
    chances = taken[z_TF[:, [0]].nonzero()[0]] / 200
    assert abs(chances.mean() - 100 / counts[0]) < 1e-3
    assert chances.std() < 2 * np.sqrt(chances.mean() / 200)


def test_documents_may_go_on_from_batch_to_batch():
    rng = np.random.default_rng(3)
    document = np.sort(rng.integers(30, size=500))
    feature, changes = rng.integers(4, size=500), rng.normal(size=(500, 2, 3))
    whole, parts = EffectSums(4, 3), EffectSums(4, 3)
    whole.add(document, feature, changes)
    for part in np.array_split(np.arange(500), 83):
        parts.add(document[part].astype(np.uint32), feature[part], changes[part])
    for one, other in zip(whole.effects(0.95), parts.effects(0.95), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_what_was_not_measured_is_missing_and_never_infinite():
    sums = EffectSums(3, 2)
    sums.add(np.array([4, 4]), np.array([1, 1]), np.ones((2, 2, 2)))
    found = sums.effects(0.95)
    assert found.n_F.tolist() == [0, 2, 0]
    assert np.isnan(found.dp[[0, 2]]).all()
    assert (found.dp[1] == 1).all()
    for bound in (found.dp_lo, found.dp_hi, found.dm_lo, found.dm_hi):
        assert np.isnan(bound).all()
    assert (found.at_least_F == 0).all()


@pytest.mark.parametrize("lowest", [0.0, -torch.inf])
def test_margins_of_experts_in_groups_that_lost_are_finite(lowest):
    scores_TE = torch.tensor([[0.9, 0.5, lowest, lowest]])
    chosen_TE, margin_TE = choice_of(Routed(scores_TE, torch.tensor([[0]])))
    assert chosen_TE.tolist() == [[1, 0, 0, 0]]
    torch.testing.assert_close(margin_TE, torch.tensor([[0.4, -0.4, -0.9, -0.9]]))


def test_there_is_no_margin_where_all_experts_are_chosen():
    chosen_TE, margin_TE = choice_of(Routed(torch.rand(3, 2), torch.tensor([[0, 1]] * 3)))
    assert (chosen_TE == 1).all()
    assert margin_TE.isnan().all()
