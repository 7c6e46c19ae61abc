"""Loading: from a folder or a Hub-like checkpoint, whole or in part, and what is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_moe import tiny_batch, tiny_config, tiny_network

from deepseemoe.config import ModelConfig
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.loading import load_model


def hub_config(folder, **changes) -> ModelConfig:
    return ModelConfig(source="hub", name=str(folder), **changes)


@pytest.mark.parametrize("family", ["gpt_oss", "flex_olmo", "olmoe", "deepseek_v2", "ernie4_5_moe"])
def test_a_checkpoint_loads_whole_and_in_part(family, tmp_path):
    network = tiny_network(family)
    network.save_pretrained(tmp_path)
    tokens = tiny_batch()
    whole = load_model(hub_config(tmp_path), None)
    expected = MoeModel(network)
    assert torch.equal(whole.logits(tokens), expected.logits(tokens))

    part = load_model(hub_config(tmp_path), None, n_layers=2)
    assert (part.n_layers, part.moe_layers) == (2, tuple(n for n in whole.moe_layers if n < 2))
    with part.record(["resid_post/L01"]) as acts:
        part.hidden_states(tokens)
    with expected.record(["resid_post/L01"]) as expected_acts:
        expected.hidden_states(tokens)
    assert torch.equal(acts["resid_post/L01"], expected_acts["resid_post/L01"])
    with pytest.raises(ValueError, match="loaded without its head"):
        part.logits(tokens)


def test_our_own_model_loads_from_its_folder_in_the_asked_type(tmp_path):
    tiny_network("nanomoe").save_pretrained(tmp_path)
    config = ModelConfig(source="nanomoe", dtype="bfloat16")
    model = load_model(config, tmp_path)
    assert model.dtype == torch.bfloat16
    assert model.logits(tiny_batch()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="source `nanomoe` needs the folder"):
        load_model(config, None)


def test_gpt_oss_gets_fused_attention(tmp_path):
    tiny_network("gpt_oss").save_pretrained(tmp_path)
    model = load_model(hub_config(tmp_path), None)
    assert model.network.config._attn_implementation == "sink_attn"


def test_a_dense_family_is_refused_with_the_known_ones(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match=r"model type 'llama' is no .* known are .*olmoe"):
        load_model(hub_config(tmp_path), None)


def test_code_of_a_checkpoint_is_never_asked_for(tmp_path):
    raw = {"model_type": "deepseek", "auto_map": {"AutoConfig": "configuration.DeepseekConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="model type 'deepseek' is no"):
        load_model(hub_config(tmp_path), None)


def test_a_model_whose_layers_are_all_dense_is_refused(tmp_path):
    tiny_network("qwen3_moe", mlp_only_layers=[0, 1, 2]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="all 3 layers are dense"):
        load_model(hub_config(tmp_path), None)


@pytest.mark.parametrize("n_layers", [0, 4])
def test_more_layers_than_there_are_are_refused(tmp_path, n_layers):
    tiny_config("olmoe").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"has 3 layers, {n_layers} were asked for"):
        load_model(hub_config(tmp_path), None, n_layers=n_layers)


def test_a_folder_without_a_model_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no model is here"):
        load_model(hub_config(tmp_path / "nowhere"), None)
    with pytest.raises(FileNotFoundError, match="no model is here"):
        load_model(ModelConfig(), tmp_path)


FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def packed_fp4(rng: np.random.Generator, n_experts: int, d_out: int, d_in: int):
    """Return random MXFP4 blocks and scales (OCP Microscaling 1.0), and what they stand for."""
    blocks = rng.integers(0, 256, (n_experts, d_out, d_in // 32, 16), dtype=np.uint8)
    scales = rng.integers(120, 128, (n_experts, d_out, d_in // 32), dtype=np.uint8)
    codes = np.stack([blocks & 15, blocks >> 4], -1).reshape(*blocks.shape[:3], 32)
    values = FP4[codes] * 2.0 ** (scales[..., None].astype(np.float32) - 127)
    return blocks, scales, values.reshape(n_experts, d_out, d_in).swapaxes(1, 2)


def test_mxfp4_checkpoints_are_expanded_exactly(tmp_path):
    rng = np.random.default_rng(0)
    network = tiny_network("gpt_oss", intermediate_size=32, num_hidden_layers=1)
    network.save_pretrained(tmp_path)
    tensors, expected = load_file(tmp_path / "model.safetensors"), {}
    for name in [name for name in tensors if name.endswith("_proj")]:
        n_experts, d_in, d_out = tensors.pop(name).shape
        blocks, scales, expected[name] = packed_fp4(rng, n_experts, d_out, d_in)
        tensors[f"{name}_blocks"] = torch.from_numpy(blocks)
        tensors[f"{name}_scales"] = torch.from_numpy(scales)
    assert len(expected) == 2
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps(raw))

    model = load_model(hub_config(tmp_path), None)
    for name, values in expected.items():
        loaded = model.network.get_parameter(name)
        assert loaded.dtype == torch.float32
        assert np.array_equal(loaded.numpy(), values)
    with model.record(["expert_ids/L00", "expert_out/L00"]) as acts:  # hooks fire
        model.hidden_states(tiny_batch())
    assert acts["expert_ids/L00"].shape == (48, 3)
