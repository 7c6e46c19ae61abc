"""Budgets of arms are equal where they claim to be, and equal SAEs are trained once."""

import pytest

from deepseemoe.config import ConfigError, JustifyConfig, RunConfig, load_run
from deepseemoe.justify.plan import (
    SEPARATE,
    Member,
    arms_of,
    evaluations,
    justified_layers,
    members,
    plan_problems,
    seeds_of,
    widths_of,
    windows_of,
)
from deepseemoe.names import Window

CONFIG, WINDOW, D_MODEL = JustifyConfig(), Window(1, 3), 128


def matrices(arm):
    """Return the numbers in the matrices of an arm."""
    return sum(2 * m.d_dict * len(m.window.layers) * D_MODEL for m in members(CONFIG, arm, WINDOW))


def test_arms_have_the_budgets_of_the_crosscoder():
    (crosscoder,) = members(CONFIG, "crosscoder", WINDOW)
    for arm in SEPARATE:
        own = members(CONFIG, arm, WINDOW)
        assert [m.window for m in own] == [Window(n, n) for n in WINDOW.layers]
        total, active = sum(m.d_dict for m in own), sum(m.k for m in own)
        size, view = arm.split("-")
        if size == "features":
            assert total == crosscoder.d_dict
        else:
            assert matrices(arm) == matrices("crosscoder")
        assert active == crosscoder.k * (1 if view == "l0" else len(WINDOW.layers))


def test_equal_saes_are_one_dictionary_wherever_they_occur():
    ones = [members(CONFIG, "crosscoder", Window(n, n))[0] for n in WINDOW.layers]
    assert members(CONFIG, "features-l0", WINDOW) == tuple(ones)
    assert members(CONFIG, "copy", WINDOW)[0] in members(CONFIG, "cost-pairs", WINDOW)
    assert Member.parse("trained-F256-k8", "L01-L01") == ones[0]


def test_the_tiny_run_trains_each_dictionary_once():
    run = RunConfig()
    layers = justified_layers(run)
    wanted = [
        (member, seed)
        for window in windows_of(run.justify, layers)
        for arm in arms_of(run.justify, window)
        for member in members(run.justify, arm, window)
        for seed in seeds_of(run.justify, arm)
    ]
    assert len(set(wanted)) == 154
    assert len(wanted) == 256, "those that arms share are counted for each"
    assert len(list(evaluations(run))) == 40


def test_widths_are_clipped_to_the_layers_and_one_is_always_there():
    assert widths_of(CONFIG, Window(0, 3)) == (1, 2, 3, 4)
    assert widths_of(CONFIG, Window(8, 15)) == (1, 2, 3, 5, 8)
    assert widths_of(JustifyConfig(widths=(2,)), Window(0, 3)) == (1, 2)
    assert windows_of(JustifyConfig(widths=(2,)), Window(3, 4)) == (
        Window(3, 3), Window(4, 4), Window(3, 4),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"widths": [0]}, "0 is no number of layers"),
        ({"seeds": [1, 1]}, "holds one twice"),
        ({"k": 256}, "k 256 is not less than d_dict 256"),
        ({"arms": ["copy"]}, "arms: features-l0 must be among them"),
        ({"arms": ["feature-l0"]}, "did you mean 'features-l0'"),
        ({"layers": "L02-L09"}, "justify.layers: L02-L09 goes beyond the model"),
    ],
)
def test_a_wrong_key_is_named(changed, told):
    with pytest.raises(ConfigError, match=told):
        load_run({"justify": changed})


def test_what_keeps_the_target_from_running_is_told():
    hub = load_run({"model": {"source": "hub", "name": "some/model"}})
    assert "name the layers" in next(plan_problems(hub))
    assert list(evaluations(hub)) == []
    large = load_run({"justify": {"d_dict": 8192, "k": 8}})
    assert "copy takes at most 16384 features" in next(plan_problems(large))
    crowded = load_run({"justify": {"d_dict": 32, "k": 8}})
    assert "features-pairs has 32 of 32 features active" in next(plan_problems(crowded))
    assert list(plan_problems(RunConfig())) == []
