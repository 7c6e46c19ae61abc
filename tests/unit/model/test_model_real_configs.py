"""The claims hold for the configurations of published models, less wide and less deep.

All else is theirs: rotary positions, flags, patterns of layers, numbers of experts and groups.
Families without a file here have transformers' defaults, which are those of a published model.
"""

import json
import os
from pathlib import Path

import pytest
import torch
import transformers as tr
from moe_claims import all_claims
from tiny_moe import VOCAB, network_of

from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.deepseek.modeling import register_deepseek

FILES = {
    "FlexOlmo-7x7B-1T.transformers-defaults.json": (7, 5),
    "OLMoE-1B-7B-0924.json": (64, 8),
    "deepseek-moe-16b-base.json": (64, 6),
    "deepseek-v2-lite.json": (64, 6),
    "gpt-oss-20b.json": (32, 4),
    "mixtral-8x7b.json": (8, 2),
}
DEFAULTS = {
    tr.Qwen3MoeConfig: (128, 8),
    tr.DeepseekV3Config: (256, 8),
    tr.Glm4MoeConfig: (128, 8),
    tr.Ernie4_5_MoeConfig: (64, 6),
    tr.Llama4TextConfig: (16, 1),
}
SMALL = {
    "intermediate_size": 32,
    "intermediate_size_mlp": 48,
    "moe_intermediate_size": 16,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "vocab_size": VOCAB,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LENGTHS = [[150, 1, 41], [192]]  # longer than the window of gpt-oss

both_types = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@pytest.fixture
def folder() -> Path:
    """Return the folder of configuration files; skip where there is none."""
    beside = Path(__file__).parents[4] / "shared" / "data"
    folder = Path(os.environ.get("DEEPSEEMOE_DATA", beside)) / "configs"
    if not folder.is_dir():
        pytest.skip(f"no configuration files at {folder}; DEEPSEEMOE_DATA names the folder above")
    return folder


def shrunk(keys: dict, dtype: torch.dtype) -> MoeModel:
    """Return a model of these keys with narrow layers, few of them, but of all kinds."""
    keys = keys | {key: small for key, small in SMALL.items() if keys.get(key) is not None}
    keys |= fewer_heads(keys["num_attention_heads"], keys["num_key_value_heads"])
    keys["hidden_size"] = 64 if keys.get("head_dim") else 4 * keys["num_attention_heads"]
    keys["num_hidden_layers"] = max(4, keys.get("first_k_dense_replace", 0) + 1)
    if keys.get("layer_types"):
        keys["layer_types"] = keys["layer_types"][: keys["num_hidden_layers"]]
    keys.pop("quantization_config", None)  # weights are expanded when they are loaded
    register_deepseek()
    return MoeModel(network_of(tr.AutoConfig.for_model(**keys), dtype))


def fewer_heads(n_heads: int, n_kv_heads: int) -> dict[str, int]:
    """Return eight heads or a few more, in the same proportion to those of keys."""
    by = max(n for n in (1, 2, 4, 8) if n_heads % n == n_kv_heads % n == 0 and n_heads >= 8 * n)
    return {"num_attention_heads": n_heads // by, "num_key_value_heads": n_kv_heads // by}


@both_types
@pytest.mark.parametrize(("name", "sizes"), FILES.items())
def test_all_claims_hold_for_a_published_configuration(folder, name, sizes, dtype):
    model = shrunk(json.loads((folder / name).read_text()), dtype)
    assert (model.n_experts, model.top_k) == sizes
    all_claims(model, LENGTHS)


@both_types
@pytest.mark.parametrize(("config_class", "sizes"), DEFAULTS.items())
def test_all_claims_hold_for_the_defaults_of_a_family(config_class, sizes, dtype):
    model = shrunk(config_class().to_dict(), dtype)
    assert (model.n_experts, model.top_k) == sizes
    all_claims(model, LENGTHS)
