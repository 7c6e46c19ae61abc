"""A running model trains dictionaries as stores do, and to the same bytes however often killed."""

import numpy as np
import pytest
import torch
from small_moe import LENGTH, N_SEQUENCES, small_model, tokens_of, write_split

from deepseemoe.activations.pool import N_CHUNKS, Pool
from deepseemoe.activations.shuffled_text import ShuffledText
from deepseemoe.config import ActivationsConfig, BatchesConfig, DictionaryConfig
from deepseemoe.dictionary import trainer as trainer_module
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.live import train_live
from deepseemoe.dictionary.live_batches import LiveBatches
from deepseemoe.dictionary.site_names import site_names
from deepseemoe.dictionary.train import Task
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.names import Window

SITES = ("resid_post/L01", "moe_in/L01", "moe_out/L01", "resid_post/L02", "moe_in/L02")
SITES = (*SITES, "moe_out/L02")
WINDOW = Window(1, 2)
CHUNK = 4 * LENGTH
ACTIVATIONS = ActivationsConfig(batch_sequences=3)
BATCHES = BatchesConfig(source="live", buffer_tokens=N_CHUNKS * CHUNK)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def split(model, tmp_path_factory):
    return write_split(tmp_path_factory.mktemp("split"), model, SITES)


@pytest.fixture
def pool(model, split):
    with make_pool(model, split) as pool:
        yield pool


def make_pool(model, split, *, seed=0, **changes):
    options = {"buffer_tokens": N_CHUNKS * CHUNK, "batch_sequences": 3, "norm_outlier": 10.0}
    text = ShuffledText(split.tokens, seed=seed)
    pool = Pool(model, text, SITES, device="cpu", seed=seed, **{**options, **changes})
    pool.last_round = 99
    return pool


def tasks(folder, **changes):
    settings = {"d_dict": 32, "k": 3, "learning_rate": 3e-3, "checkpoint_steps": 3, **changes}
    crosscoder = DictionaryConfig(n_tokens=900, batch_tokens=48, **settings)
    transcoder = DictionaryConfig(kind="transcoder", n_tokens=600, batch_tokens=32, **settings)
    return [
        Task.of(crosscoder, WINDOW, folder / "crosscoder" / str(WINDOW), {"run": "test"}),
        Task.of(crosscoder, Window(2, 2), folder / "crosscoder" / "L02-L02", {"run": "test"}),
        Task.of(transcoder, WINDOW, folder / "transcoder" / str(WINDOW), {"run": "test"}),
    ]


def train(model, split, folder, *, device="cpu", **changes):
    return train_live(
        tasks(folder, **changes),
        model=model,
        shards=split.tokens,
        select_stores=split.stores,
        activations=ACTIVATIONS,
        batches=BATCHES,
        seed=0,
        device=device,
    )


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_each_pass_over_the_text_holds_every_sequence_once(split):
    text = ShuffledText(split.tokens, seed=0)
    everything = np.concatenate([tokens_of(shard).token_ids_SN for shard in (0, 1)])
    assert text.n_sequences == 2 * N_SEQUENCES
    turns = [text.read(turn * 12, 12).token_ids.numpy() for turn in (0, 1)]
    for turn in turns:
        assert sorted(map(tuple, turn)) == sorted(map(tuple, everything))
    assert not np.array_equal(*turns)
    straddling = text.read(5, 12).token_ids.numpy()
    assert np.array_equal(straddling, np.concatenate(turns)[5:17])


def test_a_pool_holds_what_the_model_computes_on_its_text(model, pool):
    batch = pool._text.read(4, 4)  # the sequences of chunk 1
    with model.record(SITES) as acts:
        model.hidden_states(TokenBatch(*batch))
    pool.rows(0, 0, 1)
    for site in SITES:
        assert torch.equal(pool._ring[site][CHUNK : 2 * CHUNK], acts[site].bfloat16()), site


def test_every_valid_row_is_served_once_in_two_rounds(pool, split):
    served = {number: [] for number in range(4)}
    for number, rows in served.items():
        n_rows = len(pool.rows(number, 0, 1)) and len(pool._order_T)
        ring = pool.rows(number, 0, n_rows).numpy()
        assert len(set(ring)) == n_rows
        oldest = number % N_CHUNKS
        rows += [(number + (row // CHUNK != oldest), row % CHUNK) for row in ring]
    flat = [row for rows in served.values() for row in rows]
    assert len(set(flat)) == len(flat)
    positions = tokens_of(0).positions_SN[:1].repeat(4, 0).reshape(-1)
    for chunk in (1, 2, 3):  # whole ones: the first lost a half, the last waits for one
        rows = sorted(row for number, row in flat if number == chunk)
        assert rows == list(np.flatnonzero(positions > 0))


def test_a_batch_depends_on_seed_and_step_only(model, split):
    points = site_names("moe_in", WINDOW), site_names("moe_out", WINDOW)
    twin = small_model()  # two pools would run one model from two threads
    with make_pool(model, split) as one, make_pool(twin, split, batch_sequences=1) as two:
        first, second = (LiveBatches(pool, *points, batch_tokens=40) for pool in (one, two))
        forward = [first.batch(step) for step in range(12)]
        for step in (11, 2, 7, 0):
            again = second.batch(step)
            for mine, theirs in zip(forward[step], again, strict=True):
                assert torch.allclose(mine, theirs, atol=2e-2)
    with make_pool(model, split, seed=1) as other:
        assert not torch.equal(
            LiveBatches(other, *points, batch_tokens=40).batch(0)[0], forward[0][0]
        )


def test_batches_are_normalised_activations_of_the_model(pool):
    batches = LiveBatches(pool, *[site_names("resid_post", WINDOW)] * 2, batch_tokens=CHUNK)
    inputs, targets = batches.batch(0)
    assert targets is inputs
    raw = batches.reads.normalisation.undo(inputs.view(CHUNK, 2, -1))
    rows = pool.rows(0, 0, CHUNK)
    for layer, site in enumerate(SITES[0:4:3]):
        assert torch.allclose(raw[:, layer], pool.gather(site, rows).float(), atol=1e-4)
    power = inputs.square().mean()
    assert 0.5 < power < 2


def test_runs_that_were_killed_end_in_the_same_bytes(model, split, tmp_path, monkeypatch):
    train(model, split, tmp_path / "whole")
    advance = trainer_module.Trainer.advance
    for deadly in (2, 19, 11):  # before any checkpoint, and twice between two
        count = iter(range(10**6))

        def dying(self, batch, count=count, deadly=deadly):
            if next(count) == deadly:
                raise KilledError
            return advance(self, batch)

        monkeypatch.setattr(trainer_module.Trainer, "advance", dying)
        with pytest.raises(KilledError):
            train(model, split, tmp_path / "killed")
        assert not list((tmp_path / "killed").rglob("config.json"))
    monkeypatch.setattr(trainer_module.Trainer, "advance", advance)
    dictionaries = train(model, split, tmp_path / "killed")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert len(files(tmp_path / "whole")) == 9
    loaded = Dictionary.load(tmp_path / "whole" / "transcoder" / str(WINDOW))
    assert torch.equal(loaded.decoder_FLD, dictionaries[2].decoder_FLD)


class KilledError(Exception):
    """Stands for a kill in the middle of training."""


def test_a_checkpoint_of_another_buffer_is_not_used(model, split, tmp_path, monkeypatch):
    advance = trainer_module.Trainer.advance
    steps = []

    def dying(self, batch):
        steps.append(self.step)
        if len(steps) == 30:
            raise KilledError
        return advance(self, batch)

    monkeypatch.setattr(trainer_module.Trainer, "advance", dying)
    with pytest.raises(KilledError):
        train(model, split, tmp_path)
    other = BatchesConfig(source="live", buffer_tokens=2 * N_CHUNKS * CHUNK)
    monkeypatch.setattr("test_live_training.BATCHES", other)
    steps.clear()
    with pytest.raises(KilledError):
        train(model, split, tmp_path)
    assert steps[0] == 0


def test_outlying_and_first_tokens_are_left_out(model, split):
    with make_pool(model, split, norm_outlier=1.2) as pool:
        pool.rows(0, 0, 1)
        norms = pool._ring["resid_post/L02"].float().norm(dim=1).numpy()
        kept = pool._order_T.numpy()
        first = kept[kept < CHUNK]
        positions = pool._text.read(0, 4).positions.numpy().reshape(-1)
        assert (positions[first] > 0).all()
        limit = 1.2 * np.median(norms[:CHUNK][positions > 0])
        assert norms[first].max() <= limit * 1.001
        assert (norms[:CHUNK][positions > 0] > limit).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"buffer_tokens": 50}, "buffer_tokens 50 holds no 3 sequences of 32 tokens"),
        ({"norm_outlier": 1e-9}, "no valid token"),
    ],
)
def test_a_pool_that_cannot_serve_says_why(model, split, changes, message):
    with pytest.raises(ValueError, match=message), make_pool(model, split, **changes) as pool:
        pool.rows(0, 0, 1)


def test_a_round_smaller_than_a_batch_is_refused(pool):
    points = site_names("moe_in", WINDOW), site_names("moe_out", WINDOW)
    with pytest.raises(ValueError, match=f"{CHUNK} tokens to a round, less than one batch"):
        LiveBatches(pool, *points, batch_tokens=CHUNK + 1)


def test_activations_that_are_not_finite_end_training(split):
    model = small_model()
    model.network.model.layers[2].mlp.experts.down_proj.data[0] = torch.inf
    message = "resid_post/L02 is infinite or NaN in live training"
    with pytest.raises(ValueError, match=message), make_pool(model, split) as pool:
        pool.rows(0, 0, 1)
