"""What rules ask a scheduler for: enough for what `plan` counts, cheap, and growing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deepseemoe.config import RunConfig, load_run
from deepseemoe.plan.dictionaries import shapes_of
from deepseemoe.plan.network import read_network
from deepseemoe.plan.ram import MB, UNKNOWN, Ram
from deepseemoe.plan.sizes import read_sizes, sizes_of
from deepseemoe.plan.source import checkpoint_of
from deepseemoe.plan.uses import uses_of

ROOT = Path(__file__).parents[3]
GPT_OSS = ROOT / "config/runs/gpt-oss-20b.yaml"


@pytest.fixture
def gpt_oss(config_file, tmp_path):
    """Return a function that gives the shipped run on gpt-oss-20b, its config.json in a folder."""
    (tmp_path / "config.json").write_bytes(config_file("gpt-oss-20b").read_bytes())
    raw = yaml.safe_load(GPT_OSS.read_text())
    raw["model"]["name"] = str(tmp_path)
    return lambda **changed: load_run({**raw, **changed})


@pytest.mark.parametrize(
    "name", ["gpt-oss-20b", "deepseek-moe-16b", "olmoe-1b-7b", "deepseek-v2-lite", "mixtral-8x7b"]
)
def test_parameters_by_hand_are_those_of_the_outline(name, config_file, published):
    found = read_sizes(json.loads(config_file(name).read_text()))
    assert found.n_parameters() == pytest.approx(published(name).n_parameters, rel=0.1)


def test_the_runs_own_model_is_counted(tiny_network):
    assert sizes_of(RunConfig()).n_parameters() == pytest.approx(
        tiny_network.n_parameters, rel=0.25
    )


@pytest.mark.parametrize("on", ["cpu", "cuda"])
def test_no_rule_asks_for_less_than_plan_counts(gpt_oss, on, published):
    stages = ("activations", "dictionary", "evaluation", "features", "experts", "prediction")
    for source in ("live", "cache"):
        batches = {"source": source} | ({"buffer_tokens": 393216} if source == "live" else {})
        run = gpt_oss(devices=dict.fromkeys(stages, on), batches=batches)
        network = published("gpt-oss-20b")
        shapes = shapes_of(run, d_model=network.d_model)
        uses = [use for use in uses_of(run, network, shapes) if use.device == "RAM"]
        assert len({use.rule for use in uses}) > (6 if on == "cpu" else 2)
        short = {
            use.rule: (Ram(run).of(use.rule), use.n_bytes / MB)
            for use in uses
            if Ram(run).of(use.rule) < use.n_bytes / MB
        }
        assert not short


def test_the_embedded_run_asks_for_little():
    run = RunConfig()
    network = read_network(checkpoint_of(run))
    shapes = shapes_of(run, d_model=network.d_model)
    for use in uses_of(run, network, shapes):
        assert use.n_bytes / MB < Ram(run).of(use.rule) < 4000


def test_a_model_that_is_not_here_yet_counts_as_a_large_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    raw = yaml.safe_load(GPT_OSS.read_text())
    raw["model"]["name"] = "nobody/has-this"
    raw["devices"] = {}
    assert sizes_of(load_run(raw)) is None
    assert Ram(load_run(raw)).of("evaluate_dictionary") * MB > 2 * UNKNOWN.n_parameters()
    assert Ram(load_run(raw)).of("no_such_rule") == 0


def test_a_damaged_config_is_left_to_whoever_loads_the_model(tmp_path, gpt_oss):
    for text in ("{", "[]", "{}", '{"hidden_size": "wide"}'):
        (tmp_path / "config.json").write_text(text)
        assert sizes_of(gpt_oss()) is None, text


def test_it_takes_no_numerical_library():
    code = "import sys, deepseemoe.plan.ram; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "numpy", "huggingface_hub"} & set(done.stdout.split())
