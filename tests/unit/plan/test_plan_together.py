"""Jobs of several dictionaries hold what a GPU has room for, and every dictionary has a job."""

import pytest

from deepseemoe.config import BatchesConfig, ConfigError, DictionaryConfig, ModelConfig, RunConfig
from deepseemoe.config.groups import at_most, groups_of, members_of
from deepseemoe.names import Window
from deepseemoe.plan.dictionaries import shapes_of
from deepseemoe.plan.figures import GIB, shown_bytes
from deepseemoe.plan.limits import RESERVE_GIB
from deepseemoe.plan.together import fits_gpus, group_bytes, grouped, shapes_in, width_of
from deepseemoe.plan.uses import uses_of

DICTIONARIES = {
    "crosscoder": DictionaryConfig(d_dict=2**16, k=64, batch_tokens=8192),
    "wide": DictionaryConfig(d_dict=2**17, k=64, batch_tokens=8192),
    "transcoder": DictionaryConfig(kind="transcoder", d_dict=2**16, k=64, batch_tokens=4096),
}
WINDOWS = (Window(8, 10), Window(11, 13))


def made(together, device="cuda", gpu_gib=80.0, **changes):
    values = {"dictionaries": DICTIONARIES, "windows": WINDOWS, **changes}
    run = RunConfig(batches=BatchesConfig(together=together))
    devices = run.devices.model_copy(update={"dictionary": device, "gpu_gib": gpu_gib})
    return run.model_copy(update={"devices": devices, **values})


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_every_dictionary_is_in_one_group_of_equal_batches(most):
    run = made(most)
    groups = groups_of(run, at_most(most))
    assert sorted(member for group in groups for member in group) == sorted(members_of(run))
    assert max(map(len, groups)) == min(most, 4)
    for group in groups:
        assert len({run.dictionaries[name].batch_tokens for name, _ in group}) == 1


def test_auto_fills_gpus_and_no_more():
    d_model = 2880
    for gpu_gib in (40.0, 80.0, 141.0):
        run = made("auto", gpu_gib=gpu_gib)
        jobs = grouped(run, d_model=d_model)
        there = (gpu_gib - RESERVE_GIB) * GIB
        assert all(group_bytes(job) <= there or len(job) == 1 for job in jobs)
        for job, following in zip(jobs, jobs[1:], strict=False):
            if job[0].config.batch_tokens == following[0].config.batch_tokens:
                assert group_bytes([*job, following[0]]) > there
    assert len(grouped(made("auto", gpu_gib=1000.0), d_model=d_model)) == 2


def test_auto_trains_one_by_one_on_cpus():
    assert [len(job) for job in grouped(made("auto", device="cpu"), d_model=16)] == [1] * 6


def test_several_gpus_share_what_is_held_but_not_a_step():
    run = made("auto", device=4)
    (first, *_) = grouped(run, d_model=2880)
    held = sum(shape.held_bytes for shape in first)
    assert group_bytes(first) - group_bytes(first, 4) == pytest.approx(held * 3 / 4, rel=1e-6)
    assert len(first) > len(grouped(made("auto"), d_model=2880)[0])


def test_the_plan_tells_what_each_gpu_of_the_largest_job_holds(tiny_network):
    run = made("auto", device=2, windows=(Window(0, 1), Window(1, 2)))
    shapes = shapes_of(run, d_model=tiny_network.d_model)
    uses = [use for use in uses_of(run, tiny_network, shapes) if use.rule == "train_together"]
    assert [use.device for use in uses] == ["GPU 1 of 2", "GPU 2 of 2", "RAM"]
    job = max(grouped(run, d_model=tiny_network.d_model), key=group_bytes)
    assert uses[0].n_bytes == uses[1].n_bytes == pytest.approx(group_bytes(job, 2), rel=1e-9)
    assert uses[0].figure().how.startswith(f"{shown_bytes(uses[0].shares[0].n_bytes)} 4 dict")


def test_one_alone_is_planned_as_ever(tiny_network):
    run = made(1, windows=(Window(0, 1), Window(1, 2)))
    shapes = shapes_of(run, d_model=tiny_network.d_model)
    (use, _) = [use for use in uses_of(run, tiny_network, shapes) if use.stage == "dictionary"]
    largest = max(shapes, key=lambda shape: shape.held_bytes)
    assert (use.rule, use.shares[0].n_bytes) == ("train_dictionary", largest.held_bytes)
    assert len(use.shares) == 2


def test_rules_and_plan_make_the_same_groups():
    run = made("auto")
    groups = groups_of(run, fits_gpus(run, 2880))
    assert [shapes_in(run, group, 2880) for group in groups] == grouped(run, d_model=2880)


def test_the_width_is_that_of_the_model(tmp_path):
    assert width_of(made("auto")) == RunConfig().model.architecture.d_model
    missing = ModelConfig(source="hub", name=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"auto needs the width of .*none.* write a number"):
        width_of(made("auto", model=missing))


def test_live_has_no_groups():
    with pytest.raises(ValueError, match="source live trains all dictionaries in one job"):
        BatchesConfig(source="live", together=2)
    assert BatchesConfig(source="live").rules == "live"
    assert BatchesConfig(together=1).rules == "cache"


@pytest.mark.parametrize(
    ("model", "own", "gpus_of_model", "of_dictionaries"),
    [
        ("cuda", "cuda", ["GPU 1 of 2"], "GPU 2 of 2"),
        ("cuda:0", "cuda:0", ["GPU 1 of 1"], "GPU 1 of 1"),
        (("cuda:0", "cuda:1"), "cuda:1", ["GPU 1 of 2", "GPU 2 of 2"], "GPU 2 of 2"),
        (("cuda:0", "cuda:1"), "cuda:2", ["GPU 1 of 3", "GPU 2 of 3"], "GPU 3 of 3"),
        ("cuda:0", "cpu", ["GPU 1 of 1"], "RAM"),
    ],
)
def test_live_training_on_a_gpu_that_both_name_holds_both(
    model, own, gpus_of_model, of_dictionaries, tiny_network
):
    windows = (Window(0, 1), Window(1, 2))
    run = made(1, batches=BatchesConfig(source="live"), windows=windows)
    named = run.devices.model_copy(update={"activations": model, "dictionary": own})
    run = run.model_copy(update={"devices": named})
    shapes = shapes_of(run, d_model=tiny_network.d_model)
    uses = [use for use in uses_of(run, tiny_network, shapes) if use.rule == "train_live"]

    def devices_with(ending):
        return [use.device for use in uses if any(s.what.endswith(ending) for s in use.shares)]

    assert devices_with("model") == gpus_of_model
    assert devices_with("dictionaries") == [of_dictionaries]
