"""Every wrong environment is told in the line that stands in the table, or does no harm."""

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from runs import ROOT, command, prepare
from wrong_environments import CASES, KEY, Box, Wrong, matches


@pytest.fixture
def box(tmp_path, monkeypatch, capsys) -> Iterator[Box]:
    """Return a machine with nothing of the user's, and give the loggers back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPSEEMOE_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setenv(KEY, "sk-of-nobody-at-all")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "DEEPSEEMOE_FAKE_GPUS"):
        monkeypatch.delenv(name, raising=False)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield Box(tmp_path, monkeypatch, capsys)
    for handler in {*root.handlers} - {*before}:
        handler.close()
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.parametrize("case", CASES, ids=[case.played.__name__ for case in CASES])
def test_what_is_wrong_is_told_in_its_line(case: Wrong, box):
    told = case.played(box)
    assert len(told) == len(case.lines), told
    for line, expected in zip(told, case.lines, strict=True):
        assert matches(line, expected, box.here), line


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in an environment of its own; what it shows is in `stdout`, in UTF-8."""
    return subprocess.run(
        [sys.executable, *arguments],
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"} | environment,
    )


ASCII = {
    "LC_ALL": "C",
    "PYTHONIOENCODING": "ascii",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
}
"""As old clusters have it; Python would use UTF-8 by itself for LC_ALL=C alone."""

JOB = """
import sys
from types import SimpleNamespace
from deepseemoe.runtime.stage import run_stage

def main(job):
    {work}

run_stage(main, SimpleNamespace(
    log=[sys.argv[1]], rule="pack_corpus", threads=1, output=[], resources={{}}
))
"""


def test_check_shows_what_a_terminal_of_ascii_lacks(tmp_path):
    file = tmp_path / "run.yaml"
    config = "corpus: {source: files, paths: [Gr\u00fc\u00dfe/*.jsonl]}\n"
    file.write_text(config, encoding="utf-8")
    done = python("-m", "deepseemoe.cli", "check", str(file), **ASCII)
    assert done.returncode == 1
    name = r"Gr\xfc\xdfe/*.jsonl"
    told = f"deepseemoe check: corpus.paths: {name} cannot be a file's name in this shell, "
    told += "whose encoding is ascii; export PYTHONUTF8=1"
    assert told in done.stdout.splitlines()
    assert f"  - {name}" in done.stdout.splitlines(), "and the configuration too"
    assert "Traceback" not in done.stdout


def test_a_job_tells_any_letters_where_the_locale_knows_ascii_only(tmp_path):
    log = tmp_path / "job.log"
    work = r'raise ValueError("corpus.paths: Gr\u00fc\u00dfe/\u6587.jsonl: damaged")'
    done = python("-c", JOB.format(work=work), str(log), **ASCII)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.endswith(r"rule pack_corpus: corpus.paths: Gr\xfc\xdfe/\u6587.jsonl: damaged")
    kept = log.read_text(encoding="utf-8")
    assert "rule pack_corpus: corpus.paths: Gr\u00fc\u00dfe/\u6587.jsonl: damaged" in kept
    assert "Traceback" in kept


def test_a_job_whose_log_cannot_be_made_runs_all_the_same():
    done = python("-c", JOB.format(work='print("it ran")'), "/dev/null/job.log")
    assert (done.returncode, done.stdout) == (0, "it ran\n")


NOWHERE = dict.fromkeys(
    [
        "HOME",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "HF_HOME",
        "MPLCONFIGDIR",
        "TMPDIR",
        "TRITON_CACHE_DIR",
    ],
    "/dev/null/nowhere",  # where not even root can make a folder
)
NO_HOME = """
import os
from deepseemoe.runtime import caches, stage

may = caches._is_writable
caches._is_writable = lambda folder: folder != caches.PACKAGE and may(folder)
stage._limit_threads(1)
{keep}  # before numba is imported, as in a job
from numba.core import caching

def closed(self):
    raise OSError("the code is read-only")

for one in caching.CacheImpl._locator_classes:
    if "InTree" in one.__name__:
        one.ensure_cache_path = closed

from deepseemoe.labels.fit import masks, sets, triggers
from deepseemoe.labels import counts, execution, layout
from deepseemoe.routing import counts
import matplotlib.pyplot, datasets, transformers, torch
from deepseemoe.report import figures
print("imported", os.path.basename(os.environ["NUMBA_CACHE_DIR"]))
"""


def test_what_jobs_import_needs_no_home_no_caches_and_no_tmpdir():
    done = python("-c", NO_HOME.format(keep="stage.keep_compiled()"), **NOWHERE)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.splitlines()[-1].startswith("imported deepseemoe-numba-")


def test_without_a_place_of_its_own_numba_would_end_them():
    done = python("-c", NO_HOME.format(keep=""), **NOWHERE)
    assert "cannot cache function" in done.stdout, "or runtime/caches.py may go"


def test_the_profile_of_slurm_without_its_plugin_ends_in_a_line(tmp_path):
    if importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        pytest.skip("the plugin is here")
    workdir = prepare(tmp_path)
    profile = ("--workflow-profile", str(ROOT / "profiles/slurm"), "--dry-run")
    done = python(*command(workdir, ROOT / "tests/config/small.yaml", *profile)[1:])
    assert done.returncode == 2
    last = done.stdout.splitlines()[-1]
    assert "argument --executor/-e: invalid choice: 'slurm' (choose from 'local', " in last
    assert "Traceback" not in done.stdout
