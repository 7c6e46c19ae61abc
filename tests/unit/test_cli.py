"""The console script says what is in force and what is wrong, in lines."""

from pathlib import Path

import pytest
import yaml

from deepseemoe.cli import main, merged_config
from deepseemoe.config import load_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_check_prints_the_resolved_configuration(capsys):
    assert main(["check"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert load_run(shown) == load_run({})


def test_the_default_file_says_nothing_but_the_defaults():
    assert load_run(merged_config([])) == load_run({})


@pytest.mark.parametrize(
    "file", sorted((ROOT / "config/runs").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_shipped_run_is_valid(file, monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPSEEMOE_TEXT", str(tmp_path))
    assert load_run(merged_config([file])).name != "tiny"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("dictionary: {}", "dictionary: unknown key; did you mean 'dictionaries'?"),
        ("- 1", "holds a list; expected keys and values"),
        ("a: [", "is not YAML"),
        ("corpus: {source: files, paths: [nowhere/at/all]}", "nowhere/at/all matches no file"),
        ("model: {source: hub, name: ./nowhere}", "nowhere holds no config.json"),
        ("labels: {labeller: openai, api_key_env: NO_SUCH_KEY}", "NO_SUCH_KEY is not set"),
    ],
)
def test_check_tells_what_is_wrong_in_one_line(text, line, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert main(["check", "--quiet", str(file)]) == 1
    assert line in capsys.readouterr().err


def test_a_file_that_is_not_there_is_one_line(capsys):
    assert main(["check", "no-such-file.yaml"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
