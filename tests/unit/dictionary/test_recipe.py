"""The numbers of a training run that follow from its configuration."""

import pytest

from deepseemoe.config import DictionaryConfig
from deepseemoe.dictionary.recipe import Recipe


def peak(*, n_steps, d_dict=2**16, n_slots=3, d_model=2880, **settings):
    config = DictionaryConfig(d_dict=d_dict, batch_tokens=4096, n_tokens=4096 * n_steps, **settings)
    return Recipe.of(config, d_model=d_model, n_slots=n_slots).peak_rate


def test_a_long_run_has_the_peers_learning_rate():
    assert peak(n_steps=60_000) == pytest.approx(1e-4)


def test_a_short_run_has_one_that_lets_features_move():
    assert peak(n_steps=400, d_dict=512, d_model=64) == pytest.approx(1.5 / (3 * 64 * 400) ** 0.5)
    assert peak(n_steps=100) == pytest.approx(2 * peak(n_steps=400))
    assert peak(n_steps=100, n_slots=12) == pytest.approx(peak(n_steps=100) / 2)


def test_a_rate_that_is_given_is_kept():
    assert peak(n_steps=100, learning_rate=3e-3) == 3e-3
