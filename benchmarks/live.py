"""Live training against the slower of its two halves: the model alone, and the trainers alone.

`ours` is a round of live training: the model fills a chunk of the pool while all dictionaries train
on the round before. `floor` is the slower of the two done alone, in the same round of the
benchmark; where both share one GPU, nothing can be faster than their sum, so `floor` is that.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from networks import gpt_oss, tiny
from timing import FLOOR, OURS, Case, compete, main

from deepseemoe.activations.pool import N_CHUNKS, Pool
from deepseemoe.activations.shuffled_text import ShuffledText
from deepseemoe.config import DictionaryConfig
from deepseemoe.corpus.shards import TokenShard, write_shard
from deepseemoe.dictionary.live_batches import LiveBatches
from deepseemoe.dictionary.pupils import Pupil, pupils_of
from deepseemoe.dictionary.train import Task
from deepseemoe.model.adapter import MoeModel
from deepseemoe.names import Window

SETTLE_ROUNDS = 2


class Setting(NamedTuple):
    """A model, where it and the dictionaries compute, and what is trained."""

    name: str
    model: Callable[[], MoeModel]
    device: str
    windows: Sequence[Window]
    dictionaries: Sequence[DictionaryConfig]
    chunk_tokens: int
    sequence_length: int
    batch_sequences: int

    @property
    def is_shared(self) -> bool:
        """Whether model and dictionaries share one GPU."""
        return self.device == "cuda:0"


def settings() -> list[Setting]:
    """Return what this machine can run."""
    sizes = {"d_dict": 1024, "k": 16, "n_tokens": 10**9, "learning_rate": 1e-3}
    kinds = [DictionaryConfig(**sizes), DictionaryConfig(kind="transcoder", **sizes)]
    windows = [Window(0, 1), Window(1, 2)]
    found = [Setting("tiny", tiny, "cpu", windows, kinds, 16_384, 256, 8)]
    if torch.cuda.is_available():
        last = torch.cuda.device_count() - 1
        wide = DictionaryConfig(d_dict=32_768, k=64, n_tokens=10**9, batch_tokens=8192)
        name = "gpt-oss width, two GPUs" if last else "gpt-oss width, one GPU"
        found.append(
            Setting(
                name,
                lambda: gpt_oss(14, "cuda:0"),
                f"cuda:{last}",
                [Window(11, 13)],
                [wide],
                65_536,
                2048,
                8,
            )  # fmt: skip
        )
    return found


def cases(rounds: int, *, only: str) -> Sequence[Case]:
    """Time the settings with `only` in their name."""
    return [_case(setting, rounds) for setting in settings() if only in setting.name]


def _case(setting: Setting, rounds: int) -> Case:
    if setting.device == "cpu":  # each half has one of two cores
        torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    with TemporaryDirectory() as folder:
        shard = _text(Path(folder) / "00000.zarr", setting)
        model = setting.model()
        tasks = [
            Task.of(config, window, Path(folder) / config.kind / str(window), {})
            for config in setting.dictionaries
            for window in setting.windows
        ]
        pool = Pool(
            model,
            ShuffledText([shard], seed=0),
            tuple(dict.fromkeys(site for task in tasks for site in task.sites)),
            device=setting.device,
            buffer_tokens=N_CHUNKS * setting.chunk_tokens,
            batch_sequences=setting.batch_sequences,
            norm_outlier=10.0,
            seed=0,
        )

        def batches_of(task: Task) -> LiveBatches:
            return LiveBatches(pool, *task.read_and_written, batch_tokens=task.config.batch_tokens)

        begun = pupils_of(tasks, batches_of, data={}, seed=0, device=str(pool.device))
        with pool, begun as pupils:
            return _timed(setting, pool, pupils, rounds)


def _timed(setting: Setting, pool: Pool, pupils: Sequence[Pupil], rounds: int) -> Case:
    """Time a round alone and together; chunk 2 is filled while rounds read chunks 0 and 1."""

    def train() -> None:
        for pupil in pupils:
            pupil.session.train(map(pupil.batches.batch, range(pupil.batches.per_round)))
        _synchronise()

    def fill() -> None:
        pool.fill(2).result()
        _synchronise()

    def both() -> None:
        filling = pool.fill(2)
        train()
        filling.result()
        _synchronise()

    for _ in range(SETTLE_ROUNDS):
        train()
    seconds = compete({OURS: both, "model alone": fill, "trainers alone": train}, rounds=rounds)
    alone = list(zip(seconds["model alone"], seconds["trainers alone"], strict=True))
    seconds[FLOOR] = [sum(pair) if setting.is_shared else max(pair) for pair in alone]
    return Case(setting.name, seconds, "tokens/s", pool.chunk_tokens)


def _text(path: Path, setting: Setting) -> Path:
    """Write random text enough for three chunks."""
    n_sequences = N_CHUNKS * setting.chunk_tokens // setting.sequence_length
    shape = (n_sequences, setting.sequence_length)
    ids = np.random.default_rng(0).integers(3, 1000, shape).astype(np.uint32)
    positions = np.tile(np.arange(shape[1], dtype=np.uint32), (n_sequences, 1))
    write_shard(
        path, TokenShard(ids, positions * 0, positions), split="train", shard=0, manifest={}
    )
    return path


def _synchronise() -> None:
    for number in range(torch.cuda.device_count()):
        torch.cuda.synchronize(number)


if __name__ == "__main__":
    main(cases, __doc__, rounds=5, only="")
