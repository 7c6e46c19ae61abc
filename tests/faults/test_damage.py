"""Every file of a finished run is damaged in turn: whoever reads it says so in one line.

What carries no checksum of its own is compared by the stage before it reads; chunks of arrays are
checked by their readers. So each file here is noticed by one of the two, at every bit.
"""

import json
import os
import random
import shutil

import pytest
import torch
from finished import CONFIG, RUN
from runs import snakemake

from deepseemoe.activations.store import ActivationStore
from deepseemoe.corpus.shards import read_shard
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.features.store import FeatureShard
from deepseemoe.labels.asking.answers import Answers
from deepseemoe.runtime import checksums
from deepseemoe.runtime.checkpoints import read_checkpoint, write_checkpoint
from deepseemoe.runtime.files import growing, partial_path, read_json, write_json
from deepseemoe.runtime.tables import read_table, row_groups
from deepseemoe.verify import verify

SEED = 7


def flip(path):
    """Turn one bit, anywhere; the same one each time."""
    content = bytearray(path.read_bytes())
    place = random.Random(f"{SEED} {path.name}").randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def empty(path):
    path.write_bytes(b"")


def lose(path):
    path.unlink()


def become_a_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = (flip, cut, empty, lose, become_a_folder)


def told(call, *arguments, **options):
    """Return the one line of the error that a call ends in."""
    with pytest.raises((ValueError, OSError)) as raised:
        call(*arguments, **options)
    line = str(raised.value)
    assert "\n" not in line
    return line


def test_every_file_without_a_checksum_of_its_own_is_compared(copied):
    folder = copied / RUN
    chances = random.Random(SEED)
    kinds = set()
    for output in checksums.outputs(folder):
        checksums.check(folder, [output])
        listed = json.loads(
            (folder / checksums.FOLDER / f"{output.relative_to(folder)}.json").read_text()
        )
        for name in listed:
            path = output / name if name else output
            whole, damage = (
                path.read_bytes(),
                chances.choice(DAMAGES if len(listed) > 1 else DAMAGES[:3]),
            )
            damage(path)
            line = told(checksums.check, folder, [output])
            assert str(path) in line, (line, damage)
            assert "delete" in line
            if path.is_dir():
                path.rmdir()
            path.write_bytes(whole)
            kinds.add(path.suffix)
    assert {".parquet", ".json", ".safetensors", ".yaml", ".html", ".svg"} <= kinds


def whole_store(path):
    store = ActivationStore(path)
    arrays = sorted(chunks.parent for chunks in path.rglob("c"))
    return [store[array.relative_to(path).as_posix()].whole() for array in arrays]


def whole_features(path):
    shard = FeatureShard.open(path)
    names = ("offsets", "feature", "activation", "token_id", "doc_id", "position", "is_valid")
    return [shard.read(name) for name in names]


STORES = {
    "corpus/test/00000.zarr": read_shard,
    "activations/test/00000.zarr": whole_store,
    "features/crosscoder/L00-L01/00000.zarr": whole_features,
}


@pytest.mark.parametrize("store", STORES)
def test_every_chunk_is_checked_by_its_reader(undisturbed, tmp_path, store):
    path, read = tmp_path / "copied.zarr", STORES[store]
    shutil.copytree(undisturbed / RUN / store, path)
    read(path)
    chunks = [p for p in sorted(path.rglob("c/**/*")) if p.is_file()]
    for number, chunk in enumerate(chunks):
        whole = chunk.read_bytes()
        for damage in (flip, DAMAGES[number % 3 + 1]):
            damage(chunk)
            assert str(path) in told(read, path), (chunk, damage)
            chunk.write_bytes(whole)
    for metadata in sorted(path.rglob("zarr.json")):
        whole = metadata.read_bytes()
        for damage in (cut, empty, lose):
            damage(metadata)
            assert str(path) in told(read, path), (metadata, damage)
            metadata.write_bytes(whole)


def test_verify_names_what_no_stage_reads_again(copied):
    folder = copied / RUN
    whole = verify(folder)
    assert whole.n_outputs == len(checksums.outputs(folder))
    assert whole.problems == []
    page = folder / "report/summary.html"
    chunks = [min(p for p in (folder / store).rglob("c/**/*") if p.is_file()) for store in STORES]
    for path, damage in zip((page, *chunks), (flip, lose, flip, lose), strict=True):
        damage(path)
    told = verify(folder).problems
    assert len(told) == 4
    for output in ("report/summary.html", *STORES):
        (line,) = [line for line in told if str(folder / output) in line]
        assert "delete" in line


def test_libraries_tell_of_damaged_files_by_name(undisturbed, tmp_path):
    dictionary = undisturbed / RUN / "dictionary/crosscoder/L00-L01"
    for name, damages in {"weights.safetensors": (cut, empty), "config.json": (cut, empty)}.items():
        for damage in damages:
            folder = tmp_path / f"{name}-{damage.__name__}"
            shutil.copytree(dictionary, folder)
            damage(folder / name)
            assert str(folder / name) in told(Dictionary.load, folder)
    table = tmp_path / "reads.parquet"
    for damage in (cut, empty):
        shutil.copy(undisturbed / RUN / "experts/crosscoder/L00-L01/reads.parquet", table)
        damage(table)
        assert str(table) in told(read_table, table)
        assert str(table) in told(lambda: list(row_groups(table)))
    write_json(tmp_path / "metrics.json", {"fvu": 0.5})
    cut(tmp_path / "metrics.json")
    assert str(tmp_path / "metrics.json") in told(read_json, tmp_path / "metrics.json")


@pytest.mark.parametrize("damage", [flip, cut, empty])
def test_a_damaged_checkpoint_is_told_at_every_bit(tmp_path, damage):
    path = tmp_path / "L00-L01.checkpoint"
    for attempt in range(20):
        tensors = {"encoder": torch.rand(16, 4), "n_silent": torch.arange(16 + attempt)}
        write_checkpoint(path, run="one", step=5, tensors=tensors, log={"loss": [0.5, 0.25]})
        found = read_checkpoint(path, run="one")
        assert torch.equal(found.tensors["encoder"], tensors["encoder"])
        damage(path)
        assert str(path) in told(read_checkpoint, path, run="one")


def test_half_an_answer_is_cut_and_asked_again(tmp_path):
    with Answers(tmp_path, "one") as answers:
        answers.add("0" * 16, "kept")
        answers.add("1" * 16, "half")
    path = tmp_path / "one.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    with Answers(tmp_path, "one") as answers:
        assert answers.get("0" * 16) == "kept"
        assert not answers.holds("1" * 16)
        answers.add("1" * 16, "again")
    with Answers(tmp_path, "two") as answers:
        assert answers.get("1" * 16) == "again"


def test_what_another_left_where_a_file_grows_is_removed(tmp_path):
    target = tmp_path / "weights.safetensors"
    (partial_path(target) / "deep").mkdir(parents=True)
    with growing(target) as partial:
        partial.write_text("whole")
    assert target.read_text() == "whole"
    folder = tmp_path / "store.zarr"
    partial_path(folder).write_text("a file where a folder grows")
    folder.write_text("a file where a folder stands")
    with growing(folder) as partial:
        partial.mkdir()
    assert folder.is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store.zarr", "weights.safetensors"]


def test_the_workflow_tells_a_damaged_file_in_one_line_and_makes_it_anew(copied, labelled):
    weights = copied / RUN / "dictionary/crosscoder/L00-L01/weights.safetensors"
    whole, scores = (
        weights.read_bytes(),
        copied / RUN / "prediction/crosscoder/L00-L01/scores.parquet",
    )
    times = weights.stat()
    content = bytearray(whole)
    content[-1000] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    made = scores.read_bytes()
    scores.unlink()
    done = snakemake(copied, CONFIG, *labelled.arguments, str(scores.relative_to(copied)))
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if " ERROR " in line]
    assert len(lines) == 1, done.stdout
    assert "weights.safetensors: damaged, its checksum is not" in lines[0]
    assert "Traceback" not in done.stdout
    weights.write_bytes(whole)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = snakemake(copied, CONFIG, *labelled.arguments, str(scores.relative_to(copied)))
    assert done.returncode == 0, done.stdout[-4000:]
    assert scores.read_bytes() == made
