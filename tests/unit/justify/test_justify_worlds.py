"""The whole experiment where the answer is known: a code of three layers, and none in common."""

import pytest
from justify_worlds import experiment, small_config, write_world

from deepseemoe.justify.finding import ARTEFACT, BETTER, NO_BENEFIT, find
from deepseemoe.justify.sentences import sentences
from deepseemoe.justify.similarity import measure_similarity


def found_in(folder, world, config):
    evidence = experiment(folder, world, config)
    similarity = measure_similarity(world.layers, [world.select], max_tokens=2048)
    return find(evidence, config, similarity)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Layers 0 to 2 and 3 to 5 carry one code each, more than the budget of one layer.

    The budget of three holds two codes, so every window of three layers has what it needs, of two
    only those within one code.
    """
    folder = tmp_path_factory.mktemp("shared")
    world = write_world(folder, [(0, 1, 2), (3, 4, 5)], n_features=12, n_active=3)
    return found_in(folder, world, small_config(d_dict=8, k=2, widths=(1, 2, 3)))


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """Each layer has a code of its own, as large as the budget of one layer."""
    folder = tmp_path_factory.mktemp("apart")
    world = write_world(folder, [(0,), (1,), (2,)], n_features=8, n_active=1)
    return found_in(folder, world, small_config(d_dict=8, k=1, seeds=(0, 1)))


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """One code of two layers, with the null of shuffled layers."""
    folder = tmp_path_factory.mktemp("single")
    world = write_world(folder, [(0, 1)], n_features=12, n_active=2)
    return found_in(
        folder, world, small_config(d_dict=6, k=1, widths=(2,), arms=("features-l0", "shuffled"))
    )


def test_a_code_of_three_layers_is_found_and_its_width_chosen(shared):
    gains = shared.choice.gains
    assert shared.choice.width == 3
    assert gains[1].value == 0
    assert gains[3].lo > gains[2].hi > gains[2].lo > 0.05
    assert not shared.choice.is_linear
    assert shared.verdict == BETTER, "features-l0 is the only arm"
    assert sentences(shared)[0].startswith("At 3 layers a crosscoder is better")
    assert "3 is chosen" in sentences(shared)[1]


def test_layers_of_their_own_give_no_benefit_and_width_one(apart):
    assert apart.verdict == NO_BENEFIT
    assert apart.choice.width == 1
    assert sentences(apart)[0].startswith("No benefit")
    assert "1 is chosen" in sentences(apart)[1]


def test_the_advantage_is_gone_where_layers_are_shuffled(single):
    assert single.contrasts[0].gain.lo > 0.1
    assert single.null_gain is not None
    assert not single.null_gain.is_positive
    assert single.verdict not in (ARTEFACT, NO_BENEFIT)


def test_the_prior_sees_before_any_training_which_layers_share_a_code(shared, apart):
    assert shared.similarity.cka_LL[0, 2] > 0.3
    assert shared.similarity.cka_LL[2, 3] < 0.05
    assert shared.similarity.prior_width == 3
    assert apart.similarity.cka_LL[0, 2] < 0.05
    assert apart.similarity.prior_width == 1
