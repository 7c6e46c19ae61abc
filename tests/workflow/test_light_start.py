"""What starts often starts fast: the Snakefile and the jobs without a model import no heavy package.

Under SLURM three processes read the Snakefile for each job, and a job that only reads tables should
not wait for torch.
"""

import ast
import os
import subprocess
import sys

import pytest
import yaml
from runs import ROOT, command, prepare

HEAVY = (
    "torch transformers safetensors tokenizers scipy numba zarr pyarrow duckdb matplotlib "
    "datasets openai sklearn triton"
)
SCRIPTS = ROOT / "workflow/scripts"


def without(packages, arguments):
    """Run Python where some packages cannot be imported."""
    path = os.pathsep.join([str(ROOT / "tests/workflow/light"), str(ROOT / "src"), *sys.path])
    return subprocess.run(
        [sys.executable, *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": path, "DEEPSEEMOE_FORBIDDEN": packages},
    )


GPUS = dict.fromkeys(("activations", "dictionary", "evaluation", "features"), "cuda")


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": GPUS, "batches": {"together": "auto"}},
        {"devices": GPUS, "batches": {"source": "live"}},
        {"activations": {"shards_per_job": 2}},
    ],
    ids=["gpus, auto", "gpus, live", "grouped"],
)
def test_the_snakefile_is_read_and_planned_without_heavy_packages(tmp_path, changes):
    workdir = prepare(tmp_path)
    changed = workdir / "changed.yaml"
    changed.write_text(yaml.safe_dump(changes))
    config = (ROOT / "tests/config/small.yaml", changed)
    done = without(HEAVY, command(workdir, config, "--dry-run")[1:])
    assert done.returncode == 0, done.stdout[-3000:]
    assert "collect_examples" in done.stdout


def test_what_is_forbidden_cannot_be_imported():
    done = without(HEAVY, ["-c", "import torch"])
    assert "torch: not to be imported here" in done.stdout
