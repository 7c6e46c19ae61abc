"""BatchTopK keeps exactly the k * T highest weighted activations."""

import pytest
import torch
from dense_reference import batch_topk_mask, jobs_for, preactivations, random_weights
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseemoe.dictionary import scan
from deepseemoe.dictionary.batch_topk import BatchTopK
from deepseemoe.dictionary.gates import Weighted
from deepseemoe.dictionary.selection import highest

D_MODEL = 6


def selected(select, weights, parts, x):
    """Return the entries and the threshold of a selection."""
    jobs = jobs_for(parts, x, D_MODEL)
    return select.select(weights, jobs, weights.norm_F(D_MODEL))[:2]


def chosen(selected, shape):
    """Return a selection as a dense mask and dense values."""
    mask = torch.zeros(shape, dtype=torch.bool)
    values = torch.zeros(shape, dtype=selected.values.dtype)
    mask[selected.tokens, selected.features] = True
    values[selected.tokens, selected.features] = selected.values
    return mask, values


def example(kind="crosscoder", *, n_layers=2, d_dict=50, n_tokens=33, seed=0):
    parts, weights = random_weights(
        kind, n_layers=n_layers, d_model=D_MODEL, d_dict=d_dict, seed=seed
    )
    rng = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(n_tokens, n_layers * D_MODEL, generator=rng, dtype=torch.float64)
    return parts, weights, x


@pytest.mark.parametrize("kind", ["crosscoder", "transcoder"])
@pytest.mark.parametrize("block", [7, 1024])
def test_the_highest_weighted_activations_are_kept(kind, block, monkeypatch):
    monkeypatch.setattr(scan, "BLOCK", block)
    select = BatchTopK(k=4)
    for seed in range(4):  # the guess of one batch serves the next
        parts, weights, x = example(kind, seed=seed)
        norm_F = weights.norm_F(D_MODEL)
        kept, threshold = selected(select, weights, parts, x)
        z_TF = preactivations(weights, parts, x, D_MODEL)
        expected = batch_topk_mask(z_TF, norm_F, 4 * len(x))
        mask, values = chosen(kept, z_TF.shape)
        assert torch.equal(mask, expected)
        assert len(kept.values) == 4 * len(x)
        torch.testing.assert_close(values, z_TF * expected)
        assert threshold == pytest.approx(float((z_TF * norm_F)[expected].min()))


def test_entries_are_sorted_by_token_and_feature(monkeypatch):
    monkeypatch.setattr(scan, "BLOCK", 7)
    parts, weights, x = example("transcoder", n_layers=3)
    kept, _ = selected(BatchTopK(k=4), weights, parts, x)
    places = kept.tokens * 50 + kept.features
    assert bool((places.diff() > 0).all())


@pytest.mark.parametrize("guess", [0.0, 1e-3, 0.5, 2.0, 1e9])
def test_the_guess_does_not_change_the_selection(guess):
    parts, weights, x = example()
    expected, _ = selected(BatchTopK(k=4), weights, parts, x)
    select = BatchTopK(k=4)
    select._guess = guess
    found, _ = selected(select, weights, parts, x)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)


def test_selection_weighs_by_decoder_norm_and_passes_on_the_plain_activation():
    parts, weights, x = example()
    weights.decoders[0][3] *= 1e6
    kept, _ = selected(BatchTopK(k=4), weights, parts, x)
    z_TF = preactivations(weights, parts, x, D_MODEL)
    mask, values = chosen(kept, z_TF.shape)
    assert torch.equal(mask[:, 3], z_TF[:, 3] > 0)
    torch.testing.assert_close(values[mask[:, 3], 3], z_TF[mask[:, 3], 3])


def test_fewer_positive_activations_than_wanted_are_all_kept():
    parts, weights, x = example()
    weights.encoder_bias.sub_(2.0)
    z_TF = preactivations(weights, parts, x, D_MODEL)
    n_positive = int((z_TF > 0).sum())
    assert 0 < n_positive < 40 * len(x)
    kept, threshold = selected(BatchTopK(k=40), weights, parts, x)
    assert len(kept.values) == n_positive
    assert threshold > 0


def test_a_batch_without_positive_activations_keeps_nothing():
    parts, weights, x = example()
    weights.encoder_bias.sub_(1000.0)
    select = BatchTopK(k=4)
    for _ in range(2):
        kept, threshold = selected(select, weights, parts, x)
        assert len(kept.values) == 0
        assert threshold == 0.0


def test_features_without_a_decoder_are_never_kept():
    parts, weights, x = example()
    weights.decoders[0][::2] = 0
    kept, _ = selected(BatchTopK(k=40), weights, parts, x)
    assert bool((kept.features % 2 == 1).all())


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 70))
@settings(max_examples=80, deadline=None)
def test_ties_at_the_edge_go_to_the_first(scores, n_keep):
    found = highest(torch.tensor(scores, dtype=torch.float32), n_keep)
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:n_keep]
    assert found.tolist() == sorted(expected)


def test_equal_activations_everywhere_still_give_exactly_k_each_batch():
    parts, weights, x = example()
    weights.encoders[0].zero_()
    weights.encoder_bias.fill_(1.0)
    weights.decoders[0].fill_(1.0)
    kept, _ = selected(BatchTopK(k=4), weights, parts, x)
    assert len(kept.values) == 4 * len(x)
    assert kept.tokens.max() == 4 * len(x) // 50  # token after token, since all are tied


def test_the_threshold_of_a_batch_gives_the_same_entries_at_inference():
    parts, weights, x = example("transcoder")
    jobs, norm_F = jobs_for(parts, x, D_MODEL), weights.norm_F(D_MODEL)
    kept, threshold = selected(BatchTopK(k=4), weights, parts, x)
    found = Weighted(threshold).entries(weights, jobs, norm_F, parts)
    for mine, theirs in zip(found, kept, strict=True):
        assert torch.equal(mine, theirs)
