"""Writing a store: rows keep their token, statistics are of valid rows, failures are clear."""

import errno
import json
import shutil
import threading
from collections import namedtuple
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
import zarr
from store_bytes import files

from deepseemoe.activations.bfloat16 import narrow, widen
from deepseemoe.activations.layout import BFLOAT16, ArraySpec
from deepseemoe.activations.shard_format import shard_path
from deepseemoe.activations.store import ActivationStore
from deepseemoe.activations.writer import TOKEN_ARRAYS, StoreWriter, open_writer
from deepseemoe.config.activations import ActivationsConfig
from deepseemoe.runtime.files import partial_path

N_TOKENS, WIDTH = 150, 6
CONFIG = ActivationsConfig(window_tokens=64, chunk_tokens=8)
SITES = ("resid_post/L00", "moe_in/L01", "moe_out/L01")
ARRAYS = (
    *(ArraySpec(site, "uint16", WIDTH, BFLOAT16) for site in SITES),
    ArraySpec("expert_ids/L00", "uint8", 2),
    ArraySpec("expert_weights/L00", "float16", 2),
)


@pytest.fixture
def text():
    """Rows of a text in which every array of token t can be told from that of any other token."""
    rng = np.random.default_rng(5)
    place = np.arange(N_TOKENS)
    return {
        **{site: narrow(rng.standard_normal((N_TOKENS, WIDTH)) * 3 + 1) for site in SITES},
        "expert_ids/L00": np.stack([place, place + 1], 1).astype(np.uint8),
        "expert_weights/L00": np.stack([place, -place], 1).astype(np.float16),
        "token_id": (place * 7 + 1).astype(np.uint32),
        "doc_id": (place // 20).astype(np.uint32),
        "position": (place % 20).astype(np.uint32),
    }


def writing(path, **changes):
    """Open a writer of the test's store."""
    plan = {"n_tokens": N_TOKENS, "config": CONFIG, "seed": 0, "split": "train", "shard": 3}
    return open_writer(path, ARRAYS, manifest={"model": "planted"}, **{**plan, **changes})


def as_tensors(text):
    """Return the rows as a model gives them: tensors of wider types, token arrays as they are."""
    sites = {name: torch.from_numpy(widen(text[name])) for name in SITES}
    ids = torch.from_numpy(text["expert_ids/L00"]).long()
    weights = torch.from_numpy(text["expert_weights/L00"]).float()
    return {**text, **sites, "expert_ids/L00": ids, "expert_weights/L00": weights}


def part(text, start, stop):
    return {name: rows[start:stop] for name, rows in text.items()}


def write(path, text, *, steps=(N_TOKENS,), **changes):
    """Write the text in batches of the given sizes, over and over, and return the store."""
    with writing(path, **changes) as writer:
        start = turn = 0
        while start < N_TOKENS:
            stop = min(start + steps[turn % len(steps)], N_TOKENS)
            writer.append(part(text, start, stop))
            start, turn = stop, turn + 1
    return ActivationStore(path)


def test_row_i_is_the_same_token_in_every_array(tmp_path, text):
    store = write(tmp_path / "s", text, steps=(7, 31))
    order = store["order"].whole()
    assert sorted(order) == list(range(N_TOKENS))
    for name, rows in text.items():
        assert np.array_equal(store[name].whole(), rows[order]), name


def test_rows_are_permuted_inside_their_window_only(tmp_path, text):
    order = write(tmp_path / "s", text)["order"].whole()
    for start in range(0, N_TOKENS, 64):
        window = order[start : start + 64]
        assert sorted(window) == list(range(start, min(start + 64, N_TOKENS)))
        assert (window != np.sort(window)).any()


def test_text_order_leads_back_to_the_text(tmp_path, text):
    store = write(tmp_path / "s", text)
    rows = store.text_order()
    assert np.array_equal(store["token_id"].gather(rows), text["token_id"])
    assert np.array_equal(store["moe_in/L01"].gather(rows[40:90]), text["moe_in/L01"][40:90])


def test_zarr_reads_the_store(tmp_path, text):
    store = write(tmp_path / "s", text)
    group = zarr.open_group(tmp_path / "s", mode="r")
    assert dict(group.attrs) == {
        "format": 1,
        "kind": "activations",
        "manifest": {"model": "planted"},
    }
    for name in store.names:
        assert np.array_equal(group[name][:], store[name].whole()), name


def test_the_store_lists_its_sites_and_arrays(tmp_path, text):
    store = write(tmp_path / "s", text)
    assert store.sites == ("resid_post/L00", "moe_in/L01", "moe_out/L01")
    assert store.n_tokens == N_TOKENS
    assert store.manifest == {"model": "planted"}
    assert "is_valid" in store
    assert "resid_post/L09" not in store
    with pytest.raises(ValueError, match=r"no array 'resid_post/L09'; the store holds .*L00"):
        store["resid_post/L09"]


def test_same_seed_same_bytes_however_rows_are_batched(tmp_path, text):
    for name, steps in (("a", (N_TOKENS,)), ("b", (1, 64, 3)), ("c", (64,))):
        write(tmp_path / name, text, steps=steps)
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "c")


def test_tensors_of_wider_types_give_the_same_bytes(tmp_path, text):
    write(tmp_path / "arrays", text, steps=(40,))
    write(tmp_path / "tensors", as_tensors(text), steps=(7,))
    assert files(tmp_path / "arrays") == files(tmp_path / "tensors")


def test_tensors_of_another_kind_are_refused(tmp_path, text):
    text = as_tensors(text)
    text["moe_in/L01"] = text["moe_in/L01"].int()
    text["expert_ids/L00"] = text["expert_weights/L00"]
    expected = r"moe_in/L01 is torch.int32 .*expert_ids/L00 is torch.float32 .*expected uint8"
    with pytest.raises(ValueError, match=expected):
        write(tmp_path / "s", text)


@pytest.mark.parametrize("change", [{"seed": 1}, {"shard": 4}])
def test_another_seed_or_shard_is_permuted_differently(tmp_path, text, change):
    first, other = write(tmp_path / "a", text), write(tmp_path / "b", text, **change)
    assert not np.array_equal(first["order"].whole(), other["order"].whole())


def _append_and_interrupt(writer, rows):
    writer.append(rows)
    raise KeyboardInterrupt


def test_a_killed_run_leaves_no_store_and_the_next_gives_the_same_bytes(tmp_path, text):
    write(tmp_path / "whole", text)
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "s") as writer:
        _append_and_interrupt(writer, part(text, 0, 100))
    assert not (tmp_path / "s").exists()
    (partial_path(tmp_path / "s") / "left-over").touch()
    write(tmp_path / "s", text)
    assert files(tmp_path / "s") == files(tmp_path / "whole")


# What is measured ---------------------------------------------------------------------------


def test_statistics_are_those_of_numpy_on_valid_rows(tmp_path, text):
    store = write(tmp_path / "s", text, steps=(11,))
    is_valid = text["position"] > 0
    for site in SITES:
        values = widen(text[site][is_valid]).astype(np.float64)
        found = store.statistics(site)
        assert found.n_valid == is_valid.sum()
        np.testing.assert_allclose(found.mean_D, values.mean(0), rtol=1e-6)
        np.testing.assert_allclose(found.variance_D, values.var(0), rtol=1e-6)
        quantiles = store[site].attributes["norm_quantiles"]
        norms = np.linalg.norm(values, axis=1)
        np.testing.assert_allclose(quantiles["0.5"], np.median(norms), rtol=1e-6)
        np.testing.assert_allclose(quantiles["1.0"], norms.max(), rtol=1e-6)


def test_position_0_and_outlying_residuals_are_not_valid(tmp_path, text):
    text["resid_post/L00"][[33, 149]] = narrow(widen(text["resid_post/L00"][[33, 149]]) * 100)
    store = write(tmp_path / "s", text)
    expected = text["position"] > 0
    expected[[33, 149]] = False
    assert np.array_equal(store.valid_rows(), expected[store["order"].whole()])
    assert store.statistics("moe_in/L01").n_valid == expected.sum()


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_norms_are_right_where_float32_cannot_hold_their_squares(tmp_path, text, size):
    for site in SITES:
        text[site] = narrow(widen(text[site]).astype(np.float64) * size)
    store = write(tmp_path / "s", text)
    assert np.array_equal(store.valid_rows(), (text["position"] > 0)[store["order"].whole()])
    for site in SITES:
        norms = np.linalg.norm(widen(text[site]).astype(np.float64), axis=1)[text["position"] > 0]
        found = store[site].attributes["norm_quantiles"]
        np.testing.assert_allclose(found["0.5"], np.median(norms), rtol=1e-6)


def test_a_channel_far_from_zero_keeps_its_variance(tmp_path, text):
    text["moe_in/L01"][:, 3] = narrow(1000 + 4 * (np.arange(N_TOKENS) % 5))
    values = widen(text["moe_in/L01"][text["position"] > 0, 3]).astype(np.float64)
    found = write(tmp_path / "s", text).statistics("moe_in/L01")
    np.testing.assert_allclose(found.variance_D[3], values.var(), rtol=1e-6)


def test_outliers_of_other_sites_are_no_reason(tmp_path, text):
    text["moe_out/L01"][33] = narrow(widen(text["moe_out/L01"][33]) * 1000)
    store = write(tmp_path / "s", text)
    assert store.valid_rows().sum() == (text["position"] > 0).sum()


def test_norms_at_position_0_do_not_hide_outliers(tmp_path, text):
    """With half of the rows at position 0, as huge as sinks are, their norm would be the median."""
    text["position"] = (np.arange(N_TOKENS) % 2).astype(np.uint32)
    opens = text["position"] == 0
    text["resid_post/L00"][opens] = narrow(np.full((opens.sum(), WIDTH), 1e6))
    text["resid_post/L00"][101] = narrow(np.full(WIDTH, 1e4))
    store = write(tmp_path / "s", text)
    expected = ~opens
    expected[101] = False
    assert np.array_equal(store.valid_rows(), expected[store["order"].whole()])


def test_a_text_without_valid_rows_is_stored(tmp_path, text):
    text["position"][:] = 0
    store = write(tmp_path / "s", text)
    assert not store.valid_rows().any()
    found = store.statistics(SITES[0])
    assert found.n_valid == 0
    assert not found.mean_D.any()


def test_arrays_that_are_zero_throughout_are_read_back(tmp_path, text):
    text["doc_id"][:] = 0
    store = write(tmp_path / "s", text)
    assert not store["doc_id"].whole().any()


# What goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_with_the_token(tmp_path, text, value):
    text["moe_in/L01"][[90, 70], 2] = np.float32(value).view(np.uint32) >> 16
    expected = r"s: moe_in/L01 .* at 2 of 64 tokens, first at place 70 .* \(token id 491\)"
    with pytest.raises(ValueError, match=expected):
        write(tmp_path / "s", text)
    assert not (tmp_path / "s").exists()


def test_router_weights_that_are_not_finite_are_refused(tmp_path, text):
    text["expert_weights/L00"][5, 1] = np.nan
    with pytest.raises(ValueError, match=r"expert_weights/L00 .* place 5 .* \(token id 36\)"):
        write(tmp_path / "s", text)


class InlinePool:
    """Does the work of the threads at once, so a failure is there before the next append."""

    def submit(self, work):
        future = Future()
        try:
            future.set_result(work())
        except OSError as error:
            future.set_exception(error)
        return future


class LazyPool:
    """Does nothing until somebody waits for it, as threads that are slower than the model."""

    def submit(self, work):
        future = Future()
        future.done = lambda: False
        future.result = work
        return future


class ListingSink:
    """Notes which buffer a window came in, and when it was written."""

    store = "s"

    def __init__(self):
        self.given, self.written = [], []

    def tasks(self, window):
        self.given.append(window)
        return [partial(self.written.append, window.index), lambda: None]

    def finish(self):
        pass


class FullSink(ListingSink):
    def tasks(self, window):
        return [lambda: None, partial(self.fail, window.index)]

    def fail(self, index):
        raise OSError(f"window {index} does not fit")


def writer_of(sink, pool):
    plan = {"n_tokens": N_TOKENS, "window_tokens": 16, "purpose": (0,)}
    return StoreWriter(sink, (*ARRAYS, *TOKEN_ARRAYS), pool, **plan)


def test_a_failure_of_a_writing_thread_ends_the_next_append(text):
    writer = writer_of(FullSink(), InlinePool())
    writer.append(part(text, 0, 16))
    with pytest.raises(OSError, match="window 0 does not fit"):
        writer.append(part(text, 16, 17))


def test_a_slow_disk_holds_the_model_up_and_memory_at_two_windows(text):
    sink = ListingSink()
    writer = writer_of(sink, LazyPool())
    for window in range(5):
        writer.append(part(text, 16 * window, 16 * window + 16))
        assert sink.written == list(range(window - 1))  # the last two are still under way
    assert len({id(window) for window in sink.given}) == 2
    writer.append(part(text, 80, N_TOKENS))
    writer.finish()
    assert sink.written == list(range(10))


def test_threads_that_are_not_needed_any_more_end_with_the_writer(tmp_path, text):
    n_threads = torch.get_num_threads()
    write(tmp_path / "s", text)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("store-writer")]
    assert torch.get_num_threads() == n_threads
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == n_threads


def test_a_failure_in_the_last_window_is_not_lost(tmp_path, text):
    text["moe_in/L01"][149] = 0x7FC0
    with pytest.raises(ValueError, match="first at place 149"):
        write(tmp_path / "s", text)
    assert not (tmp_path / "s").exists()


def test_a_full_disk_is_one_clear_line(tmp_path, text, monkeypatch):
    def fill(folder, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("deepseemoe.activations.sink.write_pieces", fill)
    expected = r"/s: disk full, [\d,]+ more bytes are needed and [\d,]+ are free; free some"
    with pytest.raises(OSError, match=expected) as caught:
        write(tmp_path / "s", text)
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "s").exists()


def test_a_disk_that_is_too_small_is_noticed_before_the_model_runs(tmp_path, text, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1000, 0, 1000))
    with pytest.raises(OSError, match=r"disk full, 8,850 more bytes are needed and 1,000 are free"):
        write(tmp_path / "s", text)


def test_rows_of_another_shape_or_type_are_refused_all_at_once(tmp_path, text):
    text["moe_in/L01"] = text["moe_in/L01"][:, :5]
    text["token_id"] = text["token_id"].astype(np.int64)
    with pytest.raises(ValueError, match=r"moe_in/L01 is uint16 \(150, 5\).*token_id is int64"):
        write(tmp_path / "s", text)


def test_missing_and_surplus_rows_are_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"s: 150 rows were given, expected 151"):
        write(tmp_path / "s", text, n_tokens=151)
    with pytest.raises(ValueError, match=r"s: 150 rows, expected 149"):
        write(tmp_path / "s", text, n_tokens=149)


def test_missing_arrays_are_refused(tmp_path, text):
    del text["doc_id"]
    with pytest.raises(
        ValueError, match=r"arrays \['doc_id'\] are not both given and in the store"
    ):
        write(tmp_path / "s", text)


# What is no store ---------------------------------------------------------------------------


def test_other_formats_kinds_and_folders_are_refused_in_one_line(tmp_path, text):
    store = write(tmp_path / "s", text).path
    metadata = json.loads((store / "zarr.json").read_text())

    def refused(expected, **attributes):
        changed = {**metadata, "attributes": {**metadata["attributes"], **attributes}}
        (store / "zarr.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=expected) as caught:
            ActivationStore(store)
        assert "\n" not in str(caught.value)

    refused(r"/s: activation store format 3, expected 1; run cache_activations again or", format=3)
    refused(r"/s: kind 'features', expected 'activations'", kind="features")
    (store / "zarr.json").write_text("{")
    with pytest.raises(ValueError, match=r"/s: not an activation store, no zarr group"):
        ActivationStore(store)
    with pytest.raises(ValueError, match=r"not an activation store, nothing is there"):
        ActivationStore(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"not an activation store, no zarr group"):
        ActivationStore(tmp_path)


def test_an_order_that_is_no_permutation_is_refused(tmp_path, text):
    store = write(tmp_path / "s", text)
    order = zarr.open_array(store.path / "order", mode="r+")
    order[0] = order[1]
    with pytest.raises(ValueError, match="order is no permutation of 150 places"):
        ActivationStore(store.path).text_order()


def test_a_lost_shard_file_of_the_store_is_named(tmp_path, text):
    store = write(tmp_path / "s", text)
    shard_path(store.path / SITES[0], 1, 2).unlink()
    with pytest.raises(ValueError, match=r"/s: resid_post/L00: rows 64 to 127 are missing"):
        store.floats(SITES[0], 60, 70)
