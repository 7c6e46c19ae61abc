"""The run files of published models plan without a network, and fit two GPUs of 80 GB."""

import os
import subprocess
from pathlib import Path

import pytest
from runs import ROOT, command, planned, prepare

from deepseemoe.cli import main, merged_config
from deepseemoe.config import load_run
from deepseemoe.preflight import problems

CONFIGS = {
    "gpt-oss-20b": "gpt-oss-20b.json",
    "deepseek-moe-16b": "deepseek-moe-16b-base.json",
    "flexolmo-7x7b": "FlexOlmo-7x7B-1T.transformers-defaults.json",
    "olmoe-1b-7b": "OLMoE-1B-7B-0924.json",
}
OVERLAY = ROOT / "config/corpora/dclm-10.yaml"
DATA = Path(os.environ.get("DEEPSEEMOE_DATA", ROOT.parent / "shared" / "data"))


def run_file(name):
    return ROOT / f"config/runs/{name}.yaml"


@pytest.fixture(autouse=True)
def _at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_file_plans_its_whole_run_offline(name, tmp_path):
    run = load_run(merged_config([run_file(name)]))
    counts = planned(prepare(tmp_path), run_file(name), "--resources", "gpu=2")
    n_dictionaries = len(run.dictionaries) * len(run.windows)
    assert "train_model" not in counts
    assert counts["evaluate_dictionary"] == counts["map_reads"] == n_dictionaries
    assert counts.get("train_live", 0) + counts.get("train_dictionary", 0) in (1, n_dictionaries)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_check_finds_is_of_this_machine_only(name, tmp_path, monkeypatch):
    """No GPU and no model may be here; all else must be right."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = problems(load_run(merged_config([run_file(name)])))
    assert [line for line in found if not line.startswith(("model.name", "devices"))] == []


@pytest.mark.parametrize("files", [(), (OVERLAY,)], ids=["1 percent", "10 percent"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_fits_two_gpus_of_80_gb_and_a_disk_of_200_gib(name, files, capsys):
    config = DATA / "configs" / CONFIGS[name]
    if not config.is_file():
        pytest.skip(f"no {config}; DEEPSEEMOE_DATA names the folder of real data")
    machine = ["--gpu-gib", "80", "--ram-gib", "64", "--disk-gib", "200"]
    arguments = ["plan", *map(str, (run_file(name), *files)), "--model-config", str(config)]
    assert main([*arguments, *machine]) == 0, capsys.readouterr().out
    assert "the largest job takes 2 GPUs" in capsys.readouterr().out


@pytest.mark.parametrize("name", CONFIGS)
def test_ten_percent_is_ten_times_the_text_and_nothing_else(name):
    one, ten = (load_run(merged_config([run_file(name), *files])) for files in ((), (OVERLAY,)))
    assert ten.corpus.fraction == 10 * one.corpus.fraction == 0.1
    assert ten.corpus.n_tokens.train == 10 * one.corpus.n_tokens.train
    for kind, entry in one.dictionaries.items():
        more = {"n_tokens": 10 * entry.n_tokens, "checkpoint_steps": 4 * entry.checkpoint_steps}
        assert ten.dictionaries[kind] == entry.model_copy(update=more)
        assert entry.n_tokens < 0.98 * one.corpus.n_tokens.train  # one pass, less what is not valid


def test_snakemake_takes_the_overlay_as_a_second_file(tmp_path):
    call = command(prepare(tmp_path), run_file("olmoe-1b-7b"), "--dry-run")
    call.insert(call.index(str(run_file("olmoe-1b-7b"))) + 1, str(OVERLAY))
    done = subprocess.run(
        call, text=True, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = f"corpus/train/{2_684_354_560 // 1_048_576 - 1:05d}.zarr"
    assert last in done.stdout + done.stderr
