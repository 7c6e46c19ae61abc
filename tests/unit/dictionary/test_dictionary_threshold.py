"""The threshold at inference lets k features through on the tokens it was set on."""

import pytest
import torch
from dense_reference import preactivations, random_weights

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import Weighted
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.dictionary.threshold import calibrate
from deepseemoe.names import Window

D_MODEL, D_DICT, K = 8, 60, 5


@pytest.fixture
def dictionary():
    _, weights = random_weights("crosscoder", n_layers=2, d_model=D_MODEL, d_dict=D_DICT)
    plain = Normalisation(torch.zeros(2, D_MODEL), torch.ones(2))
    weights = type(weights)(
        (weights.encoders[0].float(),), weights.encoder_bias.float(),
        (weights.decoders[0].float(),), weights.decoder_bias.float(),
    )  # fmt: skip
    return Dictionary(
        "crosscoder", Window(0, 1), K, "resid_post", "resid_post", weights, plain, plain
    )


@pytest.fixture
def x():
    return torch.randn(3000, 2, D_MODEL, generator=torch.Generator().manual_seed(0))


def scores(dictionary, x):
    z_TF = preactivations(dictionary.weights, dictionary.parts, x.flatten(1), D_MODEL)
    return (z_TF.relu() * dictionary.norm_F).flatten()


@pytest.mark.parametrize("guess", [0.0, 1.0, 1e6])
def test_it_is_the_k_times_t_th_largest_weighted_activation(dictionary, x, guess):
    found = calibrate(dictionary, lambda: x.split(1000), guess=guess)
    exact = float(scores(dictionary, x).topk(K * len(x)).values[-1])
    assert found.threshold == pytest.approx(exact, rel=1 / 4096)
    assert found.threshold <= exact
    assert found.l0 == pytest.approx(K, rel=0.005)


def test_encoding_with_it_has_the_l0_that_it_states(dictionary, x):
    found = calibrate(dictionary, lambda: [x], guess=1.0)
    entries = dictionary.entries(x, gate=Weighted(found.threshold))
    assert len(entries.values) / len(x) == found.l0


def test_other_tokens_have_an_l0_within_two_percent_of_k(dictionary, x):
    other = torch.randn(20_000, 2, D_MODEL, generator=torch.Generator().manual_seed(1))
    found = calibrate(dictionary, lambda: [other], guess=1.0)
    assert len(dictionary.entries(x, gate=Weighted(found.threshold)).values) / len(
        x
    ) == pytest.approx(K, rel=0.02)


def test_where_fewer_are_positive_all_of_them_pass(dictionary, x):
    dictionary.weights.encoder_bias.sub_(3.0)
    n_positive = int((scores(dictionary, x) > 0).sum())
    assert n_positive < K * len(x)
    found = calibrate(dictionary, lambda: [x], guess=1.0)
    assert found.l0 == n_positive / len(x)


def test_a_dictionary_that_never_fires_gets_no_features(dictionary, x):
    dictionary.weights.encoder_bias.sub_(1e4)
    found = calibrate(dictionary, lambda: [x], guess=1.0)
    assert found.l0 == 0


def test_no_valid_token_is_an_error(dictionary):
    with pytest.raises(ValueError, match="no valid token"):
        calibrate(dictionary, list, guess=1.0)
