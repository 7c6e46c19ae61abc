"""A plan says how much of the time goes to starting and loading, and what makes that less."""

from pathlib import Path

import pytest
import yaml
from test_plan_verdict import GPT_OSS, changed, limits

from deepseemoe.cli import merged_config
from deepseemoe.config import load_run
from deepseemoe.names import SPLITS
from deepseemoe.plan.dictionaries import shapes_of
from deepseemoe.plan.plan import make_plan
from deepseemoe.plan.text import plan_text
from deepseemoe.plan.workflow import JOB_SECONDS, MOST, planning_seconds, stages_of, total_of

ROOT = Path(__file__).parents[3]
SMALL_SHARDS = {**GPT_OSS, "corpus": {**GPT_OSS["corpus"], "shard_tokens": 32_768}}


def stages(run, network):
    return {s.name: s for s in stages_of(run, network, shapes_of(run, d_model=network.d_model))}


def test_the_overhead_is_that_of_all_jobs(published):
    run, network = load_run(SMALL_SHARDS), published("gpt-oss-20b")
    capture = stages(run, network)["cache_activations (train, select, test)"]
    n_jobs = sum(run.corpus.n_shards(split) for split in SPLITS)
    assert capture.n_jobs == n_jobs > 4000
    # 14 layers of 24 are loaded, about 24 GB at 1 GB/s
    assert 20 < capture.load < 30
    seconds = n_jobs * (capture.start + JOB_SECONDS + capture.load)
    assert capture.overhead == pytest.approx(seconds / 3600)


def test_jobs_of_several_shards_are_fewer(published):
    raw = {**SMALL_SHARDS, "activations": {"shards_per_job": 10}}
    run, network = load_run(raw), published("gpt-oss-20b")
    found = stages(run, network)["cache_activations (train, select, test)"].n_jobs
    assert found == sum(-(-run.corpus.n_shards(split) // 10) for split in SPLITS)


@pytest.mark.parametrize("number", [0, 1])
def test_every_change_that_is_named_makes_enough_of_it_work(published, number):
    run, network = load_run(SMALL_SHARDS), published("gpt-oss-20b")
    plan = make_plan(run, network, limits())
    (warning,) = plan.warnings
    written = warning.partition("; write ")[2].split(", or ")[number]
    assert list(yaml.safe_load(written)) == [["activations", "corpus"][number]]
    better = changed(SMALL_SHARDS, written)
    overhead, work = total_of(stages(better, network).values())
    assert overhead <= MOST * work
    assert not make_plan(better, network, limits()).warnings
    assert f"  short jobs: {warning}" in plan_text(plan, lambda run: ())
    assert plan.plain()["warnings"] == [warning]


def test_a_run_of_minutes_is_not_warned_of(tiny_network):
    overhead, work = total_of(stages(load_run({}), tiny_network).values())
    assert overhead > MOST * work
    assert not make_plan(load_run({}), tiny_network, limits()).warnings


@pytest.mark.parametrize(
    "name", ["gpt-oss-20b", "olmoe-1b-7b", "deepseek-moe-16b", "flexolmo-7x7b"]
)
def test_the_runs_of_real_models_have_large_enough_jobs(published, name):
    run, network = load_run(merged_config([ROOT / f"config/runs/{name}.yaml"])), published(name)
    overhead, work = total_of(stages(run, network).values())
    assert overhead <= MOST * work


def test_rounds_are_jobs(published):
    raw = {**GPT_OSS, "batches": {"round_shards": 4}}
    run, network = load_run(raw), published("gpt-oss-20b")
    found = stages(run, network)
    assert found["train dictionaries"].n_jobs == 2 * len(run.rounds())
    assert found["train dictionaries"].load > 0
    n_other = sum(run.corpus.n_shards(split) for split in ("select", "test"))
    jobs = found["cache_activations (train, select, test)"].n_jobs
    assert jobs == len(run.rounds()) + n_other


def test_planning_takes_what_was_measured():
    for n_shards, seconds in ((100, 3.0), (1000, 5.0), (5000, 34.0)):
        assert planning_seconds(n_shards) == pytest.approx(seconds, rel=0.1)
