"""A plan says what does not fit, and every change that it names does fit."""

import json
import re

import pytest
import yaml

from deepseemoe.cli import main, merged_config
from deepseemoe.config import load_run
from deepseemoe.plan.figures import GIB
from deepseemoe.plan.limits import Limits
from deepseemoe.plan.plan import make_plan
from deepseemoe.plan.remedies import remedies
from deepseemoe.plan.text import plan_text

GPT_OSS = {
    "name": "big",
    "model": {"source": "hub", "name": "openai/gpt-oss-20b", "dtype": "bfloat16"},
    "windows": ["L09-L11", "L12-L14"],
    "corpus": {"n_tokens": {"train": 134_217_728}, "sequence_length": 1024},
    "dictionaries": {"crosscoder": {"d_dict": 65_536, "k": 64, "batch_tokens": 4096}},
    "devices": dict.fromkeys(("activations", "dictionary", "evaluation", "features"), "cuda"),
}


def limits(*, gpu=80, ram=1000, disk=100_000):
    return Limits(gpu * GIB, ram * GIB, disk * GIB)


def changed(raw, written):
    """Return a raw configuration with a change as a plan writes it."""
    merged = json.loads(json.dumps(raw))
    for section, value in yaml.safe_load(written).items():
        old = merged.get(section, {})
        both = isinstance(value, dict) and isinstance(old, dict)
        merged[section] = deep(old, value) if both else value
    return load_run(merged)


def deep(old, new):
    inner = {k: deep(old[k], v) if isinstance(v, dict) and k in old else v for k, v in new.items()}
    return {**old, **inner}


def test_what_fits_says_so_with_the_gpus_of_the_largest_job(published):
    network = published("gpt-oss-20b")
    live = load_run({**GPT_OSS, "batches": {"source": "live", "buffer_tokens": 65_536}})
    text = plan_text(make_plan(live, network, limits()), lambda run: ())
    assert text.splitlines()[-1] == "  fits; the largest job takes 2 GPUs: --resources gpu=2"


@pytest.mark.parametrize(
    ("limit", "kind", "advice"),
    [
        ({"disk": 1000}, "disk", "batches: {source: live}"),
        ({"disk": 1000}, "disk", "corpus: {n_tokens: {train: "),
        ({"gpu": 45}, "evaluation", "devices: {evaluation: 2}"),
        ({"gpu": 30}, "activations", "devices: {activations: 2}"),
        ({"gpu": 18}, "dictionary", "dictionaries: {crosscoder: {d_dict: 32768}}"),
    ],
)
def test_every_change_that_is_named_fits_when_it_is_made(limit, kind, advice, published):
    run, network = load_run(GPT_OSS), published("gpt-oss-20b")
    there = limits(**limit)

    def refit(other):
        return make_plan(other, network, there).problems

    problem = next(p for p in refit(run) if p.kind == kind)
    named = remedies(run, problem, refit)
    assert any(advice in written for written in named), named
    for written in named:
        still = refit(changed(GPT_OSS, written))
        assert not [p for p in still if p.kind == kind], written


def test_what_no_change_cures_is_said(published):
    run, network = load_run(GPT_OSS), published("gpt-oss-20b")
    there = limits(gpu=4)

    def refit(other):
        return make_plan(other, network, there).problems

    text = plan_text(make_plan(run, network, there), refit)
    assert "no change of one or two keys is enough" in text


def test_two_changes_are_named_where_one_is_not_enough(published):
    run, network = load_run(GPT_OSS), published("gpt-oss-20b")
    there = limits(disk=40)

    def refit(other):
        return make_plan(other, network, there).problems

    (problem,) = refit(run)
    named = remedies(run, problem, refit)
    assert named
    for written in named:
        first, second = written.split(" and ")
        both = changed(json.loads(changed(GPT_OSS, first).model_dump_json()), second)
        assert not refit(both), written


def test_a_window_beyond_the_model_is_an_error(published):
    run = load_run({**GPT_OSS, "windows": ["L22-L24"]})
    with pytest.raises(ValueError, match="L22-L24 goes beyond the model, whose last layer is 23"):
        make_plan(run, published("gpt-oss-20b"), limits())


def test_the_exit_status_says_whether_it_fits(capsys, tmp_path):
    (tmp_path / "run.yaml").write_text("name: here")
    assert main(["plan", str(tmp_path / "run.yaml"), "--disk-gib", "100"]) == 0
    assert "VERDICT\n  fits; on CPUs" in capsys.readouterr().out
    assert main(["plan", str(tmp_path / "run.yaml"), "--disk-gib", "0.5"]) == 1
    told = capsys.readouterr().out
    assert re.search(r"does not fit: the disk of results needs 3\.\d+ GiB of 512\.0 MiB", told)


def test_the_json_holds_every_figure_of_the_text(capsys, tmp_path):
    file = tmp_path / "plan.json"
    assert main(["plan", "--disk-gib", "100", "--json", str(file)]) == 0
    plan, text = json.loads(file.read_text()), capsys.readouterr().out
    assert plan["fits"] is True
    for section in ("model", "dictionaries", "memory", "disk", "time", "workflow", "labels"):
        for figure in plan[section]:
            assert figure.keys() == {"name", "value", "unit", "estimate", "how"}
            assert figure["how"] in text


def test_an_offline_hub_name_is_one_line_that_tells_the_way_out(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    run = tmp_path / "run.yaml"
    run.write_text("model: {source: hub, name: some/model}")
    assert main(["plan", str(run)]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "some/model: it is not all on this machine" in told
    assert told.endswith("or give its config.json by --model-config FILE\n")


def test_files_merge_in_order_as_snakemake_merges_them(tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("dictionaries: {crosscoder: {d_dict: 64, k: 4}}")
    second.write_text("dictionaries: {crosscoder: {n_tokens: 4096}}")
    entry = load_run(merged_config([first, second])).dictionaries["crosscoder"]
    assert (entry.d_dict, entry.k, entry.n_tokens) == (64, 4, 4096)


def test_help_tells_what_is_assumed_and_gives_examples(capsys):
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    told = capsys.readouterr().out
    for word in ("H100", "25 %", "--usd-per-million-in", "config/runs/gpt-oss-20b.yaml"):
        assert word in told


def test_a_disk_that_is_too_small_is_told_how_large_rounds_may_be(published):
    network = published("gpt-oss-20b")
    run, small = load_run(GPT_OSS), limits(disk=1500)

    def refit(changed_run):
        return make_plan(changed_run, network, small).problems

    (problem,) = make_plan(run, network, small).problems
    written = remedies(run, problem, refit)[0]
    assert re.fullmatch(r"batches: \{round_shards: \d+\}", written)
    assert not refit(changed(GPT_OSS, written))
