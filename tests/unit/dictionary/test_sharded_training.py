"""Ranks that share a dictionary's features train the dictionary that one process trains."""

import json

import numpy as np
import pytest
import sharded_cases as cases
import torch
from planted_stores import crosscoder_sites, directions, sparse_codes, transcoder_sites, write_store
from thread_ranks import ThreadRank, on_threads
from torch import multiprocessing

from deepseemoe.config import ConfigError, DictionaryConfig, load_run
from deepseemoe.dictionary import trainer as trainer_module
from deepseemoe.dictionary.codes import Entries
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.launch import _killed, train_on
from deepseemoe.dictionary.layout import parts_of
from deepseemoe.dictionary.ranked import edges_of_rows, highest_of_all
from deepseemoe.dictionary.ranks import ALONE
from deepseemoe.dictionary.selection import highest
from deepseemoe.dictionary.shards import Shard, shard_of
from deepseemoe.dictionary.together import train_together
from deepseemoe.dictionary.train import Task
from deepseemoe.names import Window
from deepseemoe.runtime.checkpoint_paths import checkpoint_path, shards_path
from deepseemoe.runtime.tables import read_table

TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
QUICK = {"n_tokens": 8000, "batch_tokens": 250, "d_dict": 33, "k": 3, "learning_rate": 3e-3}
QUICK |= {"checkpoint_steps": 7, "dead_tokens": 1000}


def on_rank(rank, meeting, n_ranks, case, changes):
    parts, weights = cases.start(*case)
    shard = shard_of(parts, rank, n_ranks)
    mine = weights.replaced(
        t.clone() for t in cases.cut(weights.tensors(), shard.segments(weights), shard)
    )
    return shard, *cases.trained(*case, mine, shard, ThreadRank(shard, meeting), **changes)


def assert_same(found, expected, dtype):
    for one, other in zip(found, expected, strict=True):
        apart = float((one - other).abs().max() / other.abs().max())
        assert apart <= TOLERANCE[dtype]


@pytest.mark.parametrize("activation", ["batch_topk", "topk", "jumprelu", "relu"])
@pytest.mark.parametrize("kind", ["crosscoder", "transcoder"])
def test_three_ranks_train_what_one_trains(kind, activation):
    case = (kind, activation, "float64")
    whole, reports, chosen = cases.alone(*case)
    found = on_threads(3, lambda *place: on_rank(*place, 3, case, {}))
    assert max(report.auxk_loss for report in reports) > 0
    for shard, trainer, told, _ in found:
        segments = shard.segments(whole.weights)
        expected = cases.cut(whole.weights.tensors(), segments, shard)
        assert_same(trainer.weights.tensors(), expected, "float64")
        for mine, theirs in zip(told, reports, strict=True):
            assert mine.n_active == theirs.n_active
            assert mine.loss == pytest.approx(theirs.loss, rel=1e-10)
            assert mine.auxk_loss == pytest.approx(theirs.auxk_loss, rel=1e-10)
            assert mine.squared_error == pytest.approx(theirs.squared_error, rel=1e-10)
        assert torch.equal(trainer.weights.decoder_bias, found[0][1].weights.decoder_bias)
    for step, every in enumerate(chosen):
        mine = torch.cat([entries[step] for *_, entries in found])
        assert torch.equal(mine.sort().values, every.sort().values)


@pytest.mark.parametrize(
    "changes", [{"pre_bias": True}, {"unit_decoder": True}, {"max_grad_norm": 100.0}], ids=str
)
def test_options_of_the_recipe_hold_on_ranks(changes):
    case = ("crosscoder", "batch_topk", "float64")
    whole, *_ = cases.alone(*case, **changes)
    for shard, trainer, *_ in on_threads(2, lambda *p: on_rank(*p, 2, case, changes)):
        segments = shard.segments(whole.weights)
        expected = cases.cut(whole.weights.tensors(), segments, shard)
        assert_same(trainer.weights.tensors(), expected, "float64")


def entries_of(scores_TF, features):
    """Return the entries above 0 of some features, and their scores."""
    tokens, mine = torch.nonzero(scores_TF[:, features] > 0, as_tuple=True)
    values = scores_TF[:, features][tokens, mine]
    return Entries(tokens, mine, values), values


@pytest.mark.parametrize("n_keep", [1, 7, 20, 1000])
def test_ties_go_to_the_first_token_and_feature_of_the_whole(n_keep):
    parts = parts_of("transcoder", n_layers=2, d_dict=14)
    draws = np.random.default_rng(0).integers(0, 4, (9, 14))
    scores_TF = torch.from_numpy(draws).float()
    every, scores = entries_of(scores_TF, torch.arange(14))
    index = highest(scores, n_keep)
    expected = set(zip(every.tokens[index].tolist(), every.features[index].tolist(), strict=True))

    def one(rank, meeting):
        shard = shard_of(parts, rank, 3)
        ranks = ThreadRank(shard, meeting)
        mine, scores = entries_of(scores_TF, shard.features_F)
        chosen = highest_of_all(ranks, mine, scores, n_keep)
        features = ranks.places(mine.features[chosen.index])
        assert chosen.n_chosen == len(expected)
        return zip(mine.tokens[chosen.index].tolist(), features.tolist(), strict=True)

    assert {pair for pairs in on_threads(3, one) for pair in pairs} == expected


def test_the_edge_of_rows_is_the_same_whoever_has_the_highest():
    values_TA = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    cuts = (slice(0, 1), slice(1, 1), slice(1, 12))  # one of the ranks has none
    shard = Shard(parts_of("crosscoder", n_layers=1, d_dict=12), n_ranks=3)

    def one(rank, meeting):
        ranks = ThreadRank(shard._replace(rank=rank), meeting)
        return edges_of_rows(ranks, values_TA[:, cuts[rank]], 5)

    expected = values_TA.sort(dim=1, descending=True).values[:, 4:5]
    assert torch.equal(edges_of_rows(ALONE, values_TA, 5), expected)
    for edge_T1 in on_threads(3, one):
        assert torch.equal(edge_T1, expected)


@pytest.fixture(scope="module")
def by_processes(tmp_path_factory):
    """Return the folder of what two gloo processes trained."""
    folder = tmp_path_factory.mktemp("processes")
    arguments = (2, folder / "meeting", folder)
    multiprocessing.spawn(cases.train_all, arguments, nprocs=2)
    return folder


@pytest.mark.parametrize("case", cases.PROCESSES, ids="-".join)
def test_two_processes_train_what_one_trains(case, by_processes):
    whole, reports, chosen = cases.alone(*case)
    files = [by_processes / f"{'-'.join(case)}-{rank}.pt" for rank in (0, 1)]
    weights, numbers, entries = zip(
        *(torch.load(file, weights_only=True) for file in files), strict=True
    )
    for mine in weights:
        assert_same(mine, whole.weights.tensors(), case[2])
    assert torch.equal(numbers[0], numbers[1])
    expected = torch.tensor(reports, dtype=torch.float64)
    assert torch.allclose(numbers[0], expected, rtol=1e-10 if case[2] == "float64" else 1e-4)
    for step, every in enumerate(chosen):
        mine = torch.cat([rank[step] for rank in entries])
        assert torch.equal(mine.sort().values, every.sort().values)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder, reads, writes = tmp_path_factory.mktemp("stores"), directions(2), directions(2, seed=1)
    codes = np.stack([sparse_codes(4096, layer) for layer in (0, 1)], axis=1)
    sites = transcoder_sites(codes, reads, writes) | crosscoder_sites(codes[:, 0], reads)
    return [write_store(folder / "0.zarr", sites)]


def tasks(folder):
    """Return a crosscoder and a transcoder to train."""
    return [
        Task.of(DictionaryConfig(kind=kind, **QUICK), Window(0, 1), folder / kind / "L00-L01", {})
        for kind in ("crosscoder", "transcoder")
    ]


@pytest.fixture
def options(stores):
    return {"stores": stores, "select_stores": stores, "seed": 0}


@pytest.fixture(scope="module")
def whole(stores, tmp_path_factory):
    """Return the folder of what one process trained without a break."""
    folder = tmp_path_factory.mktemp("whole")
    train_together(tasks(folder), stores=stores, select_stores=stores, seed=0)
    return folder


def assert_trained_alike(folder, whole):
    """The dictionaries of two folders differ by rounding only, and no checkpoint is left."""
    for kind in ("crosscoder", "transcoder"):
        mine, theirs = (Dictionary.load(place / kind / "L00-L01") for place in (folder, whole))
        assert_same(mine.weights.tensors(), theirs.weights.tensors(), "float32")
        assert mine.gate.threshold == pytest.approx(theirs.gate.threshold, rel=1e-3)
        assert mine.l0 == pytest.approx(theirs.l0, rel=1e-3)
        rows, others = (
            read_table(place / kind / "L00-L01" / "training.parquet").to_pylist()
            for place in (folder, whole)
        )
        assert len(rows) == len(others)
        for row, other in zip(rows, others, strict=True):
            assert row == pytest.approx(other, rel=1e-4, abs=1e-7)
        assert [path.name for path in (folder / kind).iterdir()] == ["L00-L01"]


class KilledError(Exception):
    """Stands for a kill in the middle of training."""


def test_two_processes_go_on_where_one_was_killed(options, whole, tmp_path, monkeypatch):
    advance = trainer_module.Trainer.advance

    def dying(self, batch):
        if self.step == 12:
            raise KilledError
        return advance(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(trainer_module.Trainer, "advance", dying)
        with pytest.raises(KilledError):
            train_together(tasks(tmp_path), **options)
    assert checkpoint_path(tasks(tmp_path)[0].folder).exists()
    train_on(("cpu", "cpu"), tasks(tmp_path), **options)
    assert_trained_alike(tmp_path, whole)


def test_one_process_goes_on_where_a_rank_of_two_was_killed(options, whole, tmp_path, monkeypatch):
    """The other rank does not wait for it, and no folder is half there."""
    arguments = (2, tmp_path / "meeting", tasks(tmp_path), options, 16)
    with pytest.raises(
        (multiprocessing.ProcessExitedException, multiprocessing.ProcessRaisedException)
    ):
        multiprocessing.spawn(cases.die_in_training, arguments, nprocs=2)
    (tmp_path / "meeting").unlink(missing_ok=True)
    for task in tasks(tmp_path):
        index = shards_path(checkpoint_path(task.folder)) / "index.json"
        assert json.loads(index.read_text())["step"] == 14
        assert not task.folder.exists()
    steps, advance = [], trainer_module.Trainer.advance
    monkeypatch.setattr(
        trainer_module.Trainer,
        "advance",
        lambda self, batch: (steps.append(self.step), advance(self, batch))[1],
    )
    train_together(tasks(tmp_path), **options)
    assert min(steps) == 14
    assert_trained_alike(tmp_path, whole)


def test_more_processes_than_features_are_refused_before_any_starts(options, tmp_path):
    message = "20 processes are too many for a part of 16 features"
    with pytest.raises(ValueError, match=message):
        train_on(("cpu",) * 20, tasks(tmp_path)[1:], **options)


def test_what_is_wrong_on_a_rank_is_told_in_one_line(options, tmp_path):
    task = tasks(tmp_path)[0]._replace(window=Window(1, 2))
    with pytest.raises(ValueError, match=r"0.zarr: the store lacks resid_post/L02") as told:
        train_on(("cpu", "cpu"), [task], **options)
    assert "\n" not in str(told.value)


def test_a_rank_that_was_killed_is_told_of():
    assert "process 2 of 3 was killed" in str(_killed([-15, -9, 1]))
    assert _killed([0, 1, -15]) is None


@pytest.mark.parametrize("devices", [{"dictionary": 2}, {"processes": 2}])
def test_live_training_has_one_process(devices):
    with pytest.raises(ConfigError, match="live trains dictionaries in one process"):
        load_run({"batches": {"source": "live"}, "devices": devices})


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_what_one_trains(options, tmp_path):
    for name, devices in {"one": ("cuda:0",), "two": ("cuda:0", "cuda:1")}.items():
        train_on(devices, tasks(tmp_path / name), **options)
    for kind in ("crosscoder", "transcoder"):
        one, two = (Dictionary.load(tmp_path / name / kind / "L00-L01") for name in ("one", "two"))
        torch.testing.assert_close(one.decoder_FLD, two.decoder_FLD, rtol=1e-3, atol=1e-3)
