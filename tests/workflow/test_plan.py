"""The workflow plans and lints; its rules, scripts, logs and benchmarks share their names."""

import re

import pytest
import yaml
from runs import ROOT, prepare, snakemake

SMALL = ROOT / "tests/config/small.yaml"
RULES = {path: path.read_text() for path in sorted((ROOT / "rules").glob("*.smk"))}


TARGETS = {"compare", "justify", "trust"}
"""Rules that only ask for files, as `all` does."""


def blocks():
    """Yield the name and the text of every rule that makes something."""
    for text in RULES.values():
        for block in re.split(r"^rule ", text, flags=re.MULTILINE)[1:]:
            name, _, body = block.partition(":")
            if name not in TARGETS:
                yield name, body


def made_in_loops():
    """Yield the names of rules that a loop makes, without their numbers."""
    for text in RULES.values():
        yield from re.findall(r'name:\s+f"(\w+)_\{', text)


def test_lint_finds_nothing(tmp_path):
    done = snakemake(prepare(tmp_path), SMALL, "--lint")
    assert done.returncode == 0, done.stdout


def test_the_bridge_for_the_catalog_plans_the_same_run(tmp_path):
    bridge = ["--snakefile", str(ROOT / "workflow/Snakefile"), "--dry-run"]
    done = snakemake(prepare(tmp_path), SMALL, *bridge)
    assert done.returncode == 0, done.stdout
    assert "write_summary" in done.stdout


def test_a_wrong_configuration_stops_before_any_job(tmp_path):
    done = snakemake(prepare(tmp_path), SMALL, "--dry-run", "--config", "labels={'labeler': 'x'}")
    assert done.returncode == 1
    assert "labels.labeler: unknown key; did you mean 'labeller'?" in done.stdout


def test_another_run_is_not_made_by_this_configuration(tmp_path):
    done = snakemake(prepare(tmp_path), SMALL, "--dry-run", "results/other/report/summary.html")
    assert "MissingRuleException" in done.stdout


@pytest.mark.parametrize(("name", "body"), list(blocks()), ids=[name for name, _ in blocks()])
def test_rule_script_log_and_benchmark_share_one_name(name, body):
    assert f"workflow/scripts/{name}.py" in body
    named = r'(in_this_run\()?"'
    assert re.search(rf"log:\s+{named}<logs>/{{run}}/{name}[./]", body)
    assert name == "write_config" or re.search(
        rf"benchmark:\s+{named}<benchmarks>/{{run}}/{name}[./]", body
    )
    assert body.lstrip().startswith('"""')
    assert "retries:" not in body, "retries multiply under a cluster; they belong in profiles"


def test_every_script_belongs_to_a_rule():
    scripts = {path.stem for path in (ROOT / "workflow/scripts").glob("*.py")}
    assert scripts == {name for name, _ in blocks()} | {*made_in_loops()}


def test_the_library_does_not_import_snakemake():
    sources = sorted((ROOT / "src").rglob("*.py"))
    assert [
        path
        for path in sources
        if re.search(r"^\s*(import|from) snakemake", path.read_text(), re.M)
    ] == []


@pytest.mark.parametrize("name", ["default", "slurm"])
def test_a_profile_bounds_the_jobs_that_are_weighed_at_once(name):
    profile = yaml.safe_load((ROOT / f"profiles/{name}/profile.yaml").read_text())
    jobs = profile.get("jobs", 1)
    assert jobs <= profile["scheduler-subsample"] <= 500, "all of thousands take longer than a job"
