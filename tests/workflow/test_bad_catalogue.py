"""Every wrong configuration and input is told in the line that stands in the table, and in time."""

import logging
import os
import warnings

import pytest
from runs import prepare, snakemake
from wrong_inputs import CASES, Wrong, expected, prepared, told

NOT_SET = ("NO_SUCH_KEY_HERE", "NO_SUCH_VARIABLE")
SHOWN = (
    "a list that is a word",
    "a key twice inside",
    "window beyond",
    "no key",
    "an index that leaves its folder",
    "a glob that matches nothing",
    "pq column",
    "compare unfinished",
)
"""Cases that Snakemake runs too, of each kind."""


@pytest.fixture(autouse=True)
def _nothing_of_the_user(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in NOT_SET:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("case", CASES, ids=[case.what for case in CASES])
def test_what_is_wrong_is_told_in_its_line(case: Wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("transformers"), "disabled", True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that read what is broken
        assert told(case, tmp_path) == (case.told_by, expected(case, tmp_path))
    assert not (tmp_path / "pwned").exists()


def test_the_table_has_no_case_twice():
    assert len({case.what for case in CASES}) == len(CASES) >= 55


def test_all_but_text_is_told_before_anything_runs():
    late = {case.told_by for case in CASES} - {"start"}
    assert late == {"prepare_tokenizer", "pack_corpus"}, "jobs that read text on a CPU"


@pytest.mark.parametrize("what", SHOWN)
def test_the_screen_shows_the_line(what, tmp_path):
    case = next(case for case in CASES if case.what == what)
    workdir = prepare(tmp_path / "work")
    targets = ["compare"] if case.rules else []
    done = snakemake(workdir, prepared(case, workdir), *targets)
    assert done.returncode == 1, done.stdout
    shown = [line.strip().rpartition(" ERROR ")[2] for line in done.stdout.splitlines()]
    place = f"deepseemoe.runtime.stage: rule {case.told_by}: " if case.told_by != "start" else ""
    for line in expected(case, workdir):
        assert shown.count(place + line) == 1, done.stdout
    assert "Traceback" not in done.stdout
    assert not any(line.startswith('File "') for line in shown), done.stdout
    made = {path.name for path in workdir.glob("results/tiny/*")}
    assert made <= {".locks", "config.yaml", "corpus"}, "nothing heavy ran"


def test_a_folder_without_permission_is_told_before_the_run(tmp_path, monkeypatch):
    from deepseemoe import preflight
    from deepseemoe.config import load_run

    folder = tmp_path / "closed"
    folder.mkdir()
    if os.geteuid() == 0:  # root may enter all
        monkeypatch.setattr(preflight.os, "access", lambda path, mode: path != folder)
    else:
        folder.chmod(0)
    run = load_run({"corpus": {"source": "files", "paths": [str(folder)]}})
    assert preflight.problems(run, ["pack_corpus"])[0] == (
        f"corpus.paths: {folder} cannot be read (no permission); change its mode, or leave it"
    )


def test_a_line_that_fills_the_memory_is_told(monkeypatch):
    from deepseemoe.corpus import blocks

    monkeypatch.setattr(blocks, "MOST_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="a line has more than 1 MiB; expected a document a line"):
        list(blocks.split_lines([b"a" * 700_000] * 2))
    with pytest.raises(ValueError, match="the text, one document, has more than 1 MiB"):
        blocks.whole([b"a" * 700_000] * 2)
    assert list(blocks.split_lines([b"ab", b"c\n\nd", b"\ne"])) == [b"abc", b"", b"d", b"e"]
