"""TopK keeps exactly the highest scores of each token."""

import pytest
import torch
from dense_reference import dense, jobs_for, preactivations, random_weights, topk_mask
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseemoe.dictionary import scan
from deepseemoe.dictionary.topk import TopK, highest_of_each, shares_of

D_MODEL, D_DICT = 6, 50
FORMS = {
    "crosscoder": {"kind": "crosscoder"},
    "cross-layer": {"kind": "transcoder"},
    "per-layer": {"kind": "transcoder", "cross_layer": False},
    "matryoshka": {"kind": "transcoder", "prefixes": (0.2, 0.5)},
}


def example(form="crosscoder", *, n_layers=3, n_tokens=33, seed=0, dtype=torch.float64):
    parts, weights = random_weights(
        n_layers=n_layers, d_model=D_MODEL, d_dict=D_DICT, seed=seed, dtype=dtype, **FORMS[form]
    )
    rng = torch.Generator().manual_seed(seed + 1)
    return parts, weights, torch.randn(n_tokens, n_layers * D_MODEL, generator=rng, dtype=dtype)


def selected(activation, weights, parts, x):
    jobs = jobs_for(parts, x, D_MODEL)
    return activation.select(weights, jobs, weights.norm_F(D_MODEL))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", [1, 5, 8])
@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_highest_scores_of_each_token_and_source_are_kept(form, k, block, dtype, monkeypatch):
    monkeypatch.setattr(scan, "BLOCK", block)
    activation = None
    for seed in range(4):  # the guess of one batch serves the next
        parts, weights, x = example(form, seed=seed, dtype=dtype)
        activation = activation or TopK(shares_of(k, parts))
        norm_F = weights.norm_F(D_MODEL)
        found = selected(activation, weights, parts, x)
        z_TF = preactivations(weights, parts, x, D_MODEL)
        expected = topk_mask(z_TF, norm_F, parts, k)
        mask, values = dense(found.entries, z_TF.shape)
        assert torch.equal(mask, expected)
        torch.testing.assert_close(values, z_TF * expected)
        lowest = float((z_TF * norm_F)[expected].min())
        assert found.threshold == pytest.approx(lowest, rel=1e-5)
        places = found.entries.tokens * D_DICT + found.entries.features
        assert bool((places.diff() > 0).all())


def test_a_transcoders_layers_share_k_earlier_ones_first():
    parts, *_ = example("cross-layer")
    assert [*shares_of(8, parts).values()] == [3, 3, 2]
    parts, *_ = example("matryoshka")
    assert [*shares_of(4, parts).values()] == [2, 1, 1]
    parts, *_ = example("crosscoder")
    assert [*shares_of(8, parts).values()] == [8]


@pytest.mark.parametrize("guess", [0.0, 1e-3, 0.5, 2.0, 1e9])
def test_the_guess_does_not_change_the_selection(guess):
    parts, weights, x = example("cross-layer")
    expected = selected(TopK(shares_of(8, parts)), weights, parts, x).entries
    activation = TopK(shares_of(8, parts))
    activation._guesses = dict.fromkeys(shares_of(8, parts), guess)
    found = selected(activation, weights, parts, x).entries
    for name in ("tokens", "features"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    # products of some tokens are summed in another order than those of all
    torch.testing.assert_close(found.values, expected.values, rtol=1e-12, atol=0)


def test_fewer_positive_activations_than_k_are_all_kept():
    parts, weights, x = example()
    weights.encoder_bias.sub_(2.0)
    z_TF = preactivations(weights, parts, x, D_MODEL)
    n_positive_T = (z_TF > 0).sum(1)
    assert 0 < int(n_positive_T.min()) < int(n_positive_T.max())
    k = int(n_positive_T.median())
    found = selected(TopK(shares_of(k, parts)), weights, parts, x).entries
    counts_T = torch.bincount(found.tokens, minlength=len(x))
    assert torch.equal(counts_T, n_positive_T.clamp_max(k))


def test_tokens_without_positive_activations_keep_nothing():
    parts, weights, x = example()
    weights.encoder_bias.sub_(1000.0)
    activation = TopK(shares_of(4, parts))
    for _ in range(2):
        found = selected(activation, weights, parts, x)
        assert len(found.entries.values) == 0
        assert found.threshold == 0.0


def test_a_token_unlike_all_others_gets_its_k_too():
    parts, weights, x = example(n_tokens=400)
    weights.encoder_bias.zero_()
    activation = TopK(shares_of(4, parts))
    selected(activation, weights, parts, x)
    x[7] *= 1e-6  # far below the floor that serves the others
    found = selected(activation, weights, parts, x).entries
    assert int((found.tokens == 7).sum()) == 4


def test_features_without_a_decoder_are_never_kept():
    parts, weights, x = example()
    weights.decoders[0][::2] = 0
    found = selected(TopK(shares_of(40, parts)), weights, parts, x).entries
    assert bool((found.features % 2 == 1).all())


def test_equal_activations_everywhere_keep_the_first_k_features_of_each_token():
    parts, weights, x = example(dtype=torch.float32)
    weights.encoders[0].zero_()
    weights.encoder_bias.fill_(1.0)
    weights.decoders[0].fill_(1.0)
    found = selected(TopK(shares_of(4, parts)), weights, parts, x).entries
    assert found.features.view(len(x), 4).tolist() == [[0, 1, 2, 3]] * len(x)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=40),
    st.integers(1, 6),
    st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=80, deadline=None)
def test_ties_at_the_edge_go_to_the_first_of_a_token(entries, k, dtype):
    entries = sorted(entries, key=lambda entry: entry[0])
    tokens = torch.tensor([token for token, _ in entries], dtype=torch.int64)
    scores = torch.tensor([score / 3 for _, score in entries], dtype=dtype)
    index, edges = highest_of_each(tokens, scores, k, 5)
    for token in range(5):
        mine = [i for i, (t, _) in enumerate(entries) if t == token]
        best = sorted(mine, key=lambda i: (-entries[i][1], i))[:k]
        assert [i for i in index.tolist() if i in mine] == sorted(best)
        lowest = min((entries[i][1] / 3 for i in best), default=0.0)
        assert float(edges[token]) == pytest.approx(lowest)
