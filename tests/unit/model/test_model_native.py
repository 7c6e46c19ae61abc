"""gpt-oss on its own 4-bit kernels: heard where they run, refused where they do not."""

import pytest
import torch
from mxfp4 import save_mxfp4, stub_kernels
from tiny_moe import tiny_batch, tiny_network
from transformers.integrations.mxfp4 import Mxfp4GptOssMLP

from deepseemoe.config import ModelConfig
from deepseemoe.model import loading, native
from deepseemoe.model.loading import load_model
from deepseemoe.names import ROUTING_ARRAYS

SITES = [f"{p}/L{n:02d}" for n in (0, 1) for p in ("moe_in", "expert_out", *ROUTING_ARRAYS)]


def config_of(folder, kernels="native", dtype="float32") -> ModelConfig:
    return ModelConfig(source="hub", name=str(folder), kernels=kernels, dtype=dtype)


@pytest.fixture
def checkpoint(tmp_path):
    save_mxfp4(tmp_path, num_hidden_layers=3)
    return tmp_path


@pytest.fixture
def without_checks(monkeypatch):
    monkeypatch.setattr(loading, "check_native", lambda *args, **kwargs: None)


def test_native_blocks_are_heard_and_compute_what_plain_ones_do(
    checkpoint, without_checks, monkeypatch
):
    plain = load_model(config_of(checkpoint, "plain"), None, n_layers=2)
    stub_kernels(monkeypatch)
    packed = load_model(config_of(checkpoint), None, n_layers=2)
    assert all(isinstance(layer.mlp, Mxfp4GptOssMLP) for layer in packed.layers)
    with packed.record(SITES) as found:
        packed.hidden_states(tiny_batch())
    with plain.record(SITES) as expected:
        plain.hidden_states(tiny_batch())
    assert all(torch.allclose(found[site], expected[site], atol=1e-4) for site in SITES)

    routed = [found[f"{p}/L01"] for p in ("moe_in", "expert_ids", "expert_weights")]
    parts = packed.expert_outputs(1, *routed)
    assert torch.allclose(parts.sum(1), found["expert_out/L01"], atol=1e-4)


def test_the_fused_way_fails_the_self_test(checkpoint, without_checks, monkeypatch):
    stub_kernels(monkeypatch)
    monkeypatch.setattr(loading, "listen_to_experts", lambda *args, **kwargs: None)
    with pytest.raises(ValueError, match=r"expert_ids/L00 fired 0 times.* kernels bypass"):
        load_model(config_of(checkpoint), None)


def test_weights_that_were_expanded_after_all_are_refused(checkpoint, without_checks):
    told = r"native, but 3 of 3 layers hold expanded weights: .*; write model.kernels: plain"
    with pytest.raises(ValueError, match=told):
        load_model(config_of(checkpoint), None)


def test_what_native_kernels_lack_is_told_at_once(checkpoint, monkeypatch):
    monkeypatch.setattr(native.importlib.util, "find_spec", lambda name: None)
    told = (
        "kernels native needs a GPU, model.dtype bfloat16, the package triton, the package "
        "kernels; write plain"
    )
    with pytest.raises(ValueError, match=told):
        load_model(config_of(checkpoint), None)


def test_native_is_for_checkpoints_in_mxfp4(tmp_path):
    tiny_network("olmoe").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="native needs a gpt-oss checkpoint in MXFP4"):
        load_model(config_of(tmp_path), None)
