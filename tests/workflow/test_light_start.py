"""What starts often starts fast: the Snakefile, and jobs without a model, import nothing heavy.

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


FILES = "torch transformers datasets openai sklearn scipy numba zarr matplotlib"
TABLES = "torch transformers datasets openai sklearn"
NO_MODEL = "transformers datasets openai sklearn matplotlib"
LIGHT = {
    **dict.fromkeys(("compare_runs", "write_config"), FILES),
    **dict.fromkeys(
        (
            "collect_examples", "conclude_trust", "draw_comparison", "draw_figures",
            "draw_justification", "draw_trust", "label_experts", "label_features",
            "measure_specialisation", "tabulate_routing", "trace_paths", "write_summary",
        ),
        TABLES,
    ),
    **dict.fromkeys(
        (
            "compare_arms", "cut_ties", "encode_features", "judge_worlds", "map_reads",
            "measure_stability", "predict_routing", "shuffle_labels", "train_arm",
            "train_dictionary", "train_last_round", "train_round", "train_together",
        ),
        NO_MODEL,
    ),
}  # fmt: skip
"""Scripts of rules, and packages that they must not import before they begin to work."""

LOADING = {
    "cache_activations", "cache_layers", "cache_random_model", "cache_round", "cache_shards",
    "compare_centroids", "evaluate_arms", "evaluate_dictionary", "import_dictionary", "map_writes",
    "measure_effects", "measure_saturation", "pack_corpus", "prepare_tokenizer", "randomise_model",
    "train_live", "train_model",
}  # fmt: skip
"""Scripts that load a model or a tokenizer, and so transformers."""


def imports_of(script):
    """Return the imports of a script and of what its main does first, as one program."""
    tree = ast.parse((SCRIPTS / f"{script}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(map(ast.unparse, found))


def test_every_script_is_light_or_loads_a_model():
    assert {path.stem for path in SCRIPTS.glob("*.py")} == {*LIGHT, *LOADING}


@pytest.mark.parametrize("forbidden", sorted(set(LIGHT.values())))
def test_jobs_do_not_import_what_they_do_not_need(forbidden):
    scripts = [script for script, packages in LIGHT.items() if packages == forbidden]
    done = without(forbidden, ["-c", "\n".join(map(imports_of, scripts))])
    assert done.returncode == 0, f"one of {', '.join(scripts)}: {done.stdout[-2000:]}"
