"""Bad input ends the run in one clear line on the screen, and in no smaller result."""

import json
import os

import pytest
import zstandard
from runs import prepare, snakemake

LINES = "".join(json.dumps({"text": f"document {n} " + "word " * 50}) + "\n" for n in range(40))


def empty(folder):
    (folder / "a.jsonl").write_text("")


def truncated(folder):
    packed = zstandard.compress(os.urandom(50_000) + LINES.encode())
    (folder / "shard_00000000_processed.jsonl.zst").write_bytes(packed[: len(packed) // 2])


def wrong_key(folder):
    (folder / "a.jsonl").write_text(LINES.replace('"text"', '"body"'))


def too_little(folder):
    (folder / "a.jsonl").write_text(LINES)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (empty, ["a.jsonl", "no documents"]),
        (truncated, ["shard_00000000_processed.jsonl.zst"]),
        (wrong_key, ["a.jsonl", "body"]),
        (too_little, ["tokens", "train"]),
    ],
    ids=["an empty file", "a truncated zst", "no such key", "too little text"],
)
def test_bad_text_is_told_in_one_line(spoil, told, tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    spoil(folder)
    config = tmp_path / "run.yaml"
    config.write_text(f"name: bad\ncorpus: {{source: files, paths: [{folder}]}}\n")
    done = snakemake(prepare(tmp_path / "work"), config, "results/bad/corpus/documents.parquet")
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if " ERROR " in line]
    assert len(lines) == 1, done.stdout
    assert all(word in lines[0] for word in told), lines
    assert "Traceback" not in done.stdout
