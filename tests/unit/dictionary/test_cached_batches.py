"""Batches from stores: normalised, valid rows only, and a pure function of seed and step."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from planted_stores import write_store

from deepseemoe.activations.store import ActivationStore
from deepseemoe.dictionary.batches import (
    CachedBatches,
    Sites,
    open_stores,
    prefetched,
    valid_blocks,
)
from deepseemoe.dictionary.site_names import site_names
from deepseemoe.names import Window

WINDOW, WIDTH = Window(0, 1), 6
NAMES = ("resid_post/L00", "resid_post/L01")


def sites(n_tokens, seed, *, moe=False):
    """Return arrays whose first channel numbers the token; one layer is much larger."""
    rng = np.random.default_rng(seed)
    found = {}
    for layer, scale in enumerate((1.0, 50.0)):
        values = scale * (rng.standard_normal((n_tokens, WIDTH)) + np.arange(WIDTH))
        found[f"resid_post/L{layer:02d}"] = values
        if moe:
            found[f"moe_in/L{layer:02d}"] = values[:, ::-1]
            found[f"moe_out/L{layer:02d}"] = values - 1.0
    return found


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    sizes = (1000, 700)  # the last chunk of each is short
    paths = [write_store(folder / f"{i}.zarr", sites(n, i, moe=True)) for i, n in enumerate(sizes)]
    return [ActivationStore(path) for path in paths]


def batches(stores, *, batch_tokens=100, seed=0, reads="resid_post", writes="resid_post"):
    return CachedBatches(
        stores,
        reads=Sites.of(stores, site_names(reads, WINDOW)),
        writes=Sites.of(stores, site_names(writes, WINDOW)),
        batch_tokens=batch_tokens,
        seed=seed,
    )


def normalised_rows(stores):
    """Return all valid rows, normalised by their own mean and variance, (T, C)."""
    raw = np.concatenate([b for s in stores for b in valid_blocks(s, NAMES)]).astype(np.float64)
    centred = raw - raw.mean(0)
    scale = np.sqrt(WIDTH / centred.var(0).sum(-1))
    return (centred * scale[:, None]).reshape(len(raw), -1)


def test_every_layer_is_centred_with_a_mean_squared_norm_of_d(stores):
    source = batches(stores, batch_tokens=1)
    rows = torch.cat([source.batch(step).inputs_TC for step in range(source.n_valid)])
    by_layer = rows.view(-1, 2, WIDTH)
    torch.testing.assert_close(by_layer.mean(0), torch.zeros(2, WIDTH), atol=1e-4, rtol=0)
    torch.testing.assert_close(by_layer.square().sum(2).mean(0), torch.full((2,), float(WIDTH)))


def test_an_epoch_has_every_valid_row_once(stores):
    source = batches(stores, batch_tokens=1)
    rows = torch.cat([source.batch(step).inputs_TC for step in range(source.n_valid)]).numpy()
    expected = normalised_rows(stores)
    assert len(rows) == len(expected) == sum(int(s.valid_rows().sum()) for s in stores)
    order, expected_order = np.lexsort(rows.T.round(3)), np.lexsort(expected.T.round(3))
    np.testing.assert_allclose(rows[order], expected[expected_order], atol=2e-3)


def test_batches_of_an_epoch_share_no_row_and_are_full(stores):
    source = batches(stores)
    assert source.per_epoch == source.n_valid // 100
    rows = torch.cat([source.batch(step).inputs_TC for step in range(source.per_epoch)])
    assert len(rows) == 100 * source.per_epoch
    assert len(torch.unique(rows, dim=0)) == len(rows)


def test_a_batch_depends_on_seed_and_step_alone(stores):
    steps = [5, 0, 17, 3, 17]
    first, second = batches(stores), batches(stores)
    for step in steps:
        assert torch.equal(first.batch(step).inputs_TC, second.batch(step).inputs_TC)
    for a, b in pairwise([0, 1, first.per_epoch, 2 * first.per_epoch]):
        assert not torch.equal(first.batch(a).inputs_TC, first.batch(b).inputs_TC)
    assert not torch.equal(first.batch(0).inputs_TC, batches(stores, seed=1).batch(0).inputs_TC)


def test_a_crosscoder_reads_what_it_writes(stores):
    batch = batches(stores).batch(0)
    assert batch.targets_TC is batch.inputs_TC
    assert batch.to("cpu").targets_TC is batch.inputs_TC


def test_inputs_and_targets_are_the_same_tokens(stores):
    batch = batches(stores, reads="moe_in", writes="moe_out").batch(2)
    reads = Sites.of(stores, site_names("moe_in", WINDOW)).normalisation
    writes = Sites.of(stores, site_names("moe_out", WINDOW)).normalisation
    raw_in = reads.undo(batch.inputs_TC.view(-1, 2, WIDTH))
    raw_out = writes.undo(batch.targets_TC.view(-1, 2, WIDTH))
    torch.testing.assert_close(raw_in.flip(2) - 1.0, raw_out, atol=1.0, rtol=2e-2)


def test_prefetching_changes_nothing(stores):
    source = batches(stores)
    for step, batch in enumerate(prefetched(source, 3, 9), start=3):
        assert torch.equal(batch.inputs_TC, source.batch(step).inputs_TC)
    assert step == 8
    assert list(prefetched(source, 4, 4)) == []


def test_an_error_while_prefetching_is_raised(stores):
    class Failing:
        def batch(self, step):
            if step == 2:
                raise ValueError("chunk 7 is damaged")
            return step

    with pytest.raises(ValueError, match="chunk 7 is damaged"):
        list(prefetched(Failing(), 0, 5))


def test_too_few_tokens_for_one_batch_are_refused(stores):
    with pytest.raises(ValueError, match="hold 16.. valid tokens, less than one batch of .* 5000"):
        batches(stores, batch_tokens=5000)


def test_a_store_without_a_site_is_refused(tmp_path):
    path = write_store(tmp_path / "a.zarr", sites(200, 0))
    with pytest.raises(ValueError, match=r"a\.zarr: the store lacks resid_post/L02; it holds"):
        open_stores([path], (*NAMES, "resid_post/L02"))
    with pytest.raises(ValueError, match="no activation store was given"):
        open_stores([], NAMES)


def test_activations_that_never_vary_are_refused(tmp_path):
    path = write_store(tmp_path / "a.zarr", {name: np.ones((200, WIDTH)) for name in NAMES})
    with pytest.raises(ValueError, match="resid_post/L00: its variance over 1.. valid tokens is 0"):
        Sites.of([ActivationStore(path)], site_names("resid_post", WINDOW))
