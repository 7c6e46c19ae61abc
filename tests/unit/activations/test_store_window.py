"""A window holds what it was given where it was given, and comes out in stored order."""

import numpy as np
import pytest
import torch

from deepseemoe.activations.drain import CPU_PIECE_BYTES, Drain
from deepseemoe.activations.layout import BFLOAT16, ArraySpec
from deepseemoe.activations.window import WindowBuffer

N_ROWS, CHUNK = 50, 8
SPECS = (
    ArraySpec("resid_post/L00", "uint16", 12, BFLOAT16),
    ArraySpec("moe_in/L00", "uint16", 5, BFLOAT16),
    ArraySpec("expert_ids/L00", "uint8", 3),
    ArraySpec("token_id", "uint32"),
)


@pytest.fixture
def rows():
    draw = torch.Generator().manual_seed(0)
    return {
        "resid_post/L00": torch.randn(N_ROWS, 12, generator=draw).bfloat16(),
        "moe_in/L00": torch.randn(N_ROWS, 5, generator=draw).bfloat16(),
        "expert_ids/L00": torch.randint(0, 99, (N_ROWS, 3), generator=draw),
        "token_id": torch.arange(N_ROWS),
    }


@pytest.fixture
def window(rows):
    window = WindowBuffer(SPECS, 64)
    window.start(0, 0, np.random.default_rng(0).permutation(N_ROWS))
    for start in range(0, N_ROWS, 20):
        window.put(rows, slice(start, min(start + 20, N_ROWS)))
    window.close()
    return window


def drained(window, name):
    """Return the bytes of an array in stored order, whatever the pieces."""
    pieces = Drain().pieces(window, name, chunk_rows=CHUNK)
    return np.concatenate([piece.copy() for piece in pieces])


@pytest.mark.parametrize("piece_bytes", [1, 500, CPU_PIECE_BYTES])
def test_rows_come_out_in_stored_order(monkeypatch, window, rows, piece_bytes):
    monkeypatch.setattr("deepseemoe.activations.drain.CPU_PIECE_BYTES", piece_bytes)
    for spec in SPECS:
        stored = rows[spec.name].to(window[spec.name].dtype)[window.places]
        expected = stored.reshape(N_ROWS, -1).view(torch.uint8).numpy()
        assert np.array_equal(drained(window, spec.name), expected), spec.name


def test_pieces_are_whole_chunks_in_memory_of_a_fixed_size(monkeypatch, window):
    monkeypatch.setattr("deepseemoe.activations.drain.CPU_PIECE_BYTES", 500)
    pieces = Drain().pieces(window, "resid_post/L00", chunk_rows=CHUNK)
    found = [(len(piece), piece.ctypes.data) for piece in pieces]
    assert [n_rows for n_rows, _ in found] == [16, 16, 16, 2]
    assert len({address for _, address in found}) == 1


def test_arrays_lie_on_the_device_of_their_values(window, rows):
    """Layers of a model may be on several devices; `meta` stands for a second one here."""
    rows["moe_in/L00"] = rows["moe_in/L00"].to("meta")
    spread = WindowBuffer(SPECS, 64)
    spread.start(0, 0, np.arange(N_ROWS))
    spread.put(rows, slice(0, N_ROWS))
    assert spread["moe_in/L00"].device.type == "meta"
    assert spread["resid_post/L00"].device.type == "cpu"
    assert torch.equal(spread["resid_post/L00"], rows["resid_post/L00"])


def test_a_buffer_is_used_again_for_a_shorter_window(window, rows):
    first = window["token_id"].data_ptr()
    window.start(1, N_ROWS, np.arange(10)[::-1].copy())
    window.put(rows, slice(30, 40))
    assert window["token_id"].data_ptr() == first
    assert window.n_left == 0
    found = drained(window, "token_id").view(np.int32).reshape(-1)
    assert found.tolist() == list(range(39, 29, -1))
