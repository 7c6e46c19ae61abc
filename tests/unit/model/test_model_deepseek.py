"""DeepSeekMoE-16B's classes on checkpoints as they are published, against the slow formula."""

import gzip
import io
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from slow_deepseek import TINY, original_tensors, slow_logits, write_checkpoint
from tiny_moe import tiny_batch, tiny_network
from transformers import AutoTokenizer, LlamaTokenizerFast

from deepseemoe.config import ModelConfig
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.deepseek.modeling import register_deepseek
from deepseemoe.model.loading import load_model

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("DEEPSEEMOE_DATA", ROOT.parent / "shared" / "data"))
PUBLISHED = DATA / "configs" / "deepseek-moe-16b-base.json"
VOCABULARY = DATA / "tok_deepseek" / "tokenizer.json.gz"


def needs(path: Path):
    reason = f"no {path}; DEEPSEEMOE_DATA names the data folder"
    return pytest.mark.skipif(not path.is_file(), reason=reason)


def loaded(folder: Path, **config):
    return load_model(ModelConfig(source="hub", name=str(folder), **config), None)


def published_shape() -> dict:
    """Return the published configuration, shrunk in width and depth only."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 16}
    return json.loads(PUBLISHED.read_text()) | sizes | {"num_hidden_layers": 3}


def largest_error(folder: Path, raw: dict, *, n_tokens: int = 20) -> float:
    """Return how far a random checkpoint's logits are from the slow ones, relative to those."""
    tensors = original_tensors(raw)
    write_checkpoint(folder, raw, tensors)
    tokens = tiny_batch(1, n_tokens)
    expected = slow_logits(raw, tensors, tokens.token_ids[0].tolist())
    found = loaded(folder).logits(tokens)[0].double()
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_topk_prob": True},
        {"norm_topk_prob": True, "num_experts_per_tok": 1},
        {"n_shared_experts": None},
        {"n_shared_experts": 0, "first_k_dense_replace": 0},
        {"moe_layer_freq": 2, "num_hidden_layers": 5},
        {"moe_layer_freq": 3, "first_k_dense_replace": 2, "num_hidden_layers": 4},
        {"num_key_value_heads": 2},
        {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 100.0},
    ],
    ids=lambda changes: "-".join(changes) or "as-published",
)
def test_logits_are_those_of_the_published_equations(tmp_path, changes):
    assert largest_error(tmp_path, TINY | changes) < 1e-5


@needs(PUBLISHED)
def test_logits_of_the_published_shape_are_those_of_the_published_equations(tmp_path):
    assert largest_error(tmp_path, published_shape()) < 1e-5


@needs(PUBLISHED)
def test_the_tiny_checkpoint_has_the_keys_of_the_published_one():
    published = set(json.loads(PUBLISHED.read_text()))
    assert set(TINY) - published == {"aux_loss_alpha", "seq_aux"}  # of other releases
    assert published <= set(TINY)


def test_bfloat16_logits_are_near_those_of_the_published_equations(tmp_path):
    """Given the model's choice of experts: rounding swaps two that are nearly equal."""
    tensors = original_tensors(TINY, torch.bfloat16)
    write_checkpoint(tmp_path, TINY | {"torch_dtype": "bfloat16"}, tensors)
    tokens = tiny_batch(1, 20)
    model = loaded(tmp_path, dtype="bfloat16")
    with model.record(["expert_ids/L01", "expert_ids/L02"]) as acts:
        found = model.logits(tokens)[0]
    chosen = {layer: acts[f"expert_ids/L{layer:02d}"].tolist() for layer in (1, 2)}
    expected = slow_logits(TINY, tensors, tokens.token_ids[0].tolist(), chosen)
    assert found.dtype == torch.bfloat16
    assert (found.double() - expected).abs().max() < 0.03 * expected.abs().max()


def test_routers_score_in_the_type_of_the_model():
    model = MoeModel(tiny_network("deepseek", dtype=torch.bfloat16, norm_topk_prob=True))
    with model.record(["moe_in/L01", "router_logits/L01", "expert_weights/L01"]) as acts:
        model.hidden_states(tiny_batch())
    logits = acts["moe_in/L01"] @ model.router_weight(1).T
    best = logits.softmax(-1).topk(3).values
    assert torch.equal(acts["router_logits/L01"], logits)
    assert torch.equal(acts["expert_weights/L01"], best / best.sum(-1, keepdim=True))
    assert acts["expert_weights/L01"].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("changes", [{}, {"n_shared_experts": None, "moe_layer_freq": 2}])
def test_a_saved_model_is_the_original_checkpoint(tmp_path, dtype, changes):
    raw = TINY | changes
    tensors = original_tensors(raw, getattr(torch, dtype))
    write_checkpoint(tmp_path, raw, tensors)
    loaded(tmp_path, dtype=dtype).network.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == tensors.keys()
    assert all(torch.equal(saved[name], tensors[name]) for name in tensors)
    assert all(saved[name].dtype == tensors[name].dtype for name in tensors)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    same = set(raw) - {"rope_theta", "rope_scaling", "torch_dtype", "transformers_version"}
    assert {key: config.get(key) for key in same} == {key: raw[key] for key in same}
    again = loaded(tmp_path / "saved", dtype=dtype)
    assert torch.equal(
        again.logits(tiny_batch()), loaded(tmp_path, dtype=dtype).logits(tiny_batch())
    )


def test_no_remote_code_is_run_and_nobody_is_asked(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, TINY, original_tensors(TINY))
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdin", closed)
    model = loaded(tmp_path)
    assert type(model.network).__module__ == "deepseemoe.model.deepseek.modeling"
    assert model.moe_layers == (1, 2)


def test_registering_again_changes_nothing(tmp_path):
    write_checkpoint(tmp_path, TINY, original_tensors(TINY))
    before = loaded(tmp_path)
    register_deepseek()
    register_deepseek()
    after = loaded(tmp_path)
    assert type(after.network) is type(before.network)
    assert torch.equal(after.logits(tiny_batch()), before.logits(tiny_batch()))


def test_another_scoring_function_is_refused_in_one_line(tmp_path):
    write_checkpoint(tmp_path, TINY | {"scoring_func": "sigmoid"}, original_tensors(TINY))
    with pytest.raises(
        ValueError, match="scoring_func is 'sigmoid', but .* 'softmax' only"
    ) as error:
        loaded(tmp_path)
    assert "\n" not in str(error.value)


def test_a_checkpoint_without_experts_is_refused_as_dense(tmp_path):
    raw = TINY | {"first_k_dense_replace": 3}
    tensors = original_tensors(raw)
    write_checkpoint(
        tmp_path, raw | {"n_routed_experts": None, "first_k_dense_replace": 0}, tensors
    )
    with pytest.raises(ValueError, match="all 3 layers are dense"):
        loaded(tmp_path)


def test_all_ways_to_run_experts_agree():
    network, ids = tiny_network("deepseek").eval(), tiny_batch().token_ids
    assert network.config._experts_implementation == "grouped_mm"
    expected = network(ids).logits
    for way in ("eager", "batched_mm"):
        network.set_experts_implementation(way)
        assert torch.allclose(network(ids).logits, expected, atol=1e-5)


def test_generation_with_a_cache_is_generation_without():
    network, ids = tiny_network("deepseek").eval(), tiny_batch(2, 5).token_ids
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    cached = network.generate(ids, use_cache=True, **options)
    assert torch.equal(cached, network.generate(ids, use_cache=False, **options))


def test_every_weight_learns():
    network = tiny_network("deepseek").train()
    ids = tiny_batch(8, 24).token_ids
    network(ids, labels=ids).loss.backward()
    idle = [name for name, p in network.named_parameters() if not p.grad.abs().max() > 0]
    assert idle == []


@needs(VOCABULARY)
def test_auto_tokenizer_gives_the_right_ids_and_the_class_that_checkpoints_name_does_not(tmp_path):
    write_checkpoint(tmp_path, TINY, original_tensors(TINY))
    (tmp_path / "tokenizer.json").write_bytes(gzip.decompress(VOCABULARY.read_bytes()))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizerFast"}')
    text, published = " this is 🦙.cpp", [437, 317, 12356, 99, 234, 13, 14743]
    right = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    assert right(text, add_special_tokens=False).input_ids == published
    wrong = LlamaTokenizerFast.from_pretrained(tmp_path)
    assert wrong(text, add_special_tokens=False).input_ids != published
