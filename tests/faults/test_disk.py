"""A disk that is full or read-only: one line, nothing half made, and on where it ended."""

import subprocess

import numpy as np
import pyarrow as pa
import pytest
import torch
from finished import RUN, SMALL
from runs import prepare, snakemake
from scipy import sparse

from deepseemoe.activations.layout import ArraySpec
from deepseemoe.activations.writer import open_writer
from deepseemoe.config import ActivationsConfig
from deepseemoe.corpus.shards import TokenShard, write_shard
from deepseemoe.features.store import FeatureWriter
from deepseemoe.runtime.checkpoints import read_checkpoint, write_checkpoint
from deepseemoe.runtime.files import growing, write_json
from deepseemoe.runtime.tables import Column, TableWriter, write_table

COLUMNS = (Column("x", pa.float64(), "", "a number"),)
NUMBERS = np.random.default_rng(0)


def _mounted(folder, options):
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder that is a disk of 1 MiB."""
    folder = tmp_path / "disk"
    _mounted(folder, "size=1m")
    yield folder
    subprocess.run(["umount", folder], check=True)


def tokens(path):
    ids_SN = NUMBERS.integers(0, 2**32, (1024, 512), dtype=np.uint32)
    write_shard(path, TokenShard(ids_SN, ids_SN, ids_SN), split="train", shard=0, manifest={})


def features(path):
    ones = {name: np.ones(2000, np.uint32) for name in ("token_id", "doc_id", "position")}
    with growing(path) as partial:
        writer = FeatureWriter(partial, d_dict=50_000, manifest={})
        for _ in range(4):
            matrix = sparse.random_array((2000, 50_000), density=0.002, format="csr", rng=NUMBERS)
            writer.append(matrix, ones | {"is_valid": np.ones(2000, np.uint8)})


def store(path):
    config = ActivationsConfig(window_tokens=1024, chunk_tokens=256)
    spec = ArraySpec("resid_post/L00", "uint16", 512, "bfloat16")
    with open_writer(
        path, [spec], n_tokens=2048, config=config, seed=0, split="train", shard=0, manifest={}
    ):
        pass


def table(path):
    write_table(path, COLUMNS, {"x": NUMBERS.random(1 << 18)}, {})


def table_in_parts(path):
    with TableWriter(path, COLUMNS, {}) as parts:
        for _ in range(8):
            parts.write({"x": NUMBERS.random(1 << 16)})


def checkpoint(path):
    write_checkpoint(path, run="one", step=1, tensors={"w": torch.rand(1 << 20)}, log={})


def json_file(path):
    write_json(path, list(range(1 << 18)))


WRITERS = (tokens, features, store, table, table_in_parts, checkpoint, json_file)


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_is_told_with_the_name_and_leaves_nothing(small_disk, write):
    path = small_disk / "output"
    with pytest.raises(OSError) as raised:  # noqa: PT011 (its text is looked at)
        write(path)
    line = str(raised.value)
    assert "\n" not in line
    assert str(path) in line
    assert "No space left" in line or "disk full" in line
    assert list(small_disk.iterdir()) == []


def test_a_training_that_fills_the_disk_keeps_its_last_checkpoint(small_disk):
    path = small_disk / "L00-L01.checkpoint"
    write_checkpoint(path, run="one", step=1, tensors={"w": torch.ones(1 << 16)}, log={})
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(path, run="one", step=2, tensors={"w": torch.ones(1 << 20)}, log={})
    assert read_checkpoint(path, run="one").step == 1


def test_a_workflow_on_a_full_disk_ends_in_one_line_and_goes_on_with_room(small_disk, tmp_path):
    workdir = prepare(tmp_path / "work")
    (workdir / "results").symlink_to(small_disk)
    subprocess.run(["mount", "-o", "remount,size=300k", small_disk], check=True)
    target = f"{RUN}/corpus/documents.parquet"
    done = snakemake(workdir, SMALL, target)
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if " ERROR " in line]
    assert len(lines) == 1, done.stdout
    assert "rule pack_corpus: results/small/corpus/" in lines[0]
    assert "No space left on device; make room and run again" in lines[0]
    assert "Traceback" not in done.stdout
    assert list(small_disk.rglob("*.partial")) == []
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    done = snakemake(workdir, SMALL, target)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "prepare_tokenizer" not in done.stdout


def test_read_only_results_end_before_any_job_in_one_line(small_disk, tmp_path):
    workdir = prepare(tmp_path / "work")
    (workdir / "results").symlink_to(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    done = snakemake(workdir, SMALL, f"{RUN}/config.yaml")
    assert done.returncode == 1
    assert f"pathvars.results: {workdir}/results cannot be written; name another" in done.stdout
    assert "Traceback" not in done.stdout
    assert "Error in rule" not in done.stdout
