"""Weights that do not fit config.json are refused in one line, but for those that none reads."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_moe import tiny_batch, tiny_network

from deepseemoe.config import ModelConfig
from deepseemoe.model.loading import load_model

Q = "model.layers.1.self_attn.q_proj.weight"
EXPERT = "model.layers.1.mlp.experts.3."


def spoiled(folder, family, change, **changes):
    """Write a tiny checkpoint whose weights `change` has edited, and return how to load it."""
    tiny_network(family, **changes).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return ModelConfig(source="hub", name=str(folder))


def without(*starts):
    """Return a change that drops the weights whose names start so."""
    return lambda weights: [weights.pop(key) for key in list(weights) if key.startswith(starts)]


def with_also(name, *shape):
    return lambda weights: weights.update({name: torch.zeros(shape)})


def renamed(start, new):
    """Return a change that renames weights."""

    def change(weights):
        for key in [key for key in weights if key.startswith(start)]:
            weights[new + key.removeprefix(start)] = weights.pop(key)

    return change


def copied(start, new):
    """Return a change that adds weights under other names too."""

    def change(weights):
        for key in [key for key in weights if key.startswith(start)]:
            weights[new + key.removeprefix(start)] = weights[key].clone()

    return change


DEFECTS = {
    "a weight is gone": (without(Q), "1 not there (model.layers.1.self_attn.q_proj.weight)"),
    "a layer is gone": (without("model.layers.2."), "not there (model.layers.2.input_layernorm."),
    "the head is gone": (without("lm_head"), "1 not there (lm_head.weight)"),
    "an expert is gone": (
        without(EXPERT),
        "experts.down_proj is (7, 32, 24), expected (8, 32, 24)",
    ),
    "half an expert is gone": (
        without(f"{EXPERT}gate"),
        "1 cannot be put together (model.layers.1.mlp.experts.gate_up_proj)",
    ),
    "an expert too many": (
        copied(EXPERT, "model.layers.1.mlp.experts.8."),
        "experts.down_proj is (9, 32, 24), expected (8, 32, 24)",
    ),
    "experts with a gap": (
        renamed(EXPERT, "model.layers.1.mlp.experts.9."),
        "1 not numbered from 0 without a gap (model.layers.1.mlp.experts)",
    ),
    "another shape": (with_also(Q, 5, 5), f"1 of another shape ({Q} is (5, 5), expected (32, 32))"),
    "another shape of an expert": (
        with_also(f"{EXPERT}down_proj.weight", 5, 5),
        "1 cannot be put together (model.layers.1.mlp.experts.down_proj)",
    ),
    "a bias too many": (
        with_also("model.layers.1.self_attn.q_proj.bias", 32),
        "1 not of this model (model.layers.1.self_attn.q_proj.bias)",
    ),
    "a layer too many": (
        copied("model.layers.2.", "model.layers.3."),
        "not of this model (model.layers.3.input_layernorm.weight, ",
    ),
}


@pytest.mark.parametrize(("change", "told"), DEFECTS.values(), ids=DEFECTS)
def test_weights_that_do_not_fit_are_told_in_one_line(change, told, tmp_path, capfd):
    config = spoiled(tmp_path, "olmoe", change)
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        load_model(config, None)
    assert str(caught.value).startswith(f"{tmp_path}: the weights do not fit config.json: ")
    assert "\n" not in str(caught.value)
    assert "REPORT" not in "".join(capfd.readouterr())


def test_all_defects_are_told_at_once_with_their_number(tmp_path):
    def change(weights):
        without("model.layers.1.self_attn")(weights)
        with_also("model.norm.weight", 5)(weights)

    told = r"6 not there \(.*, .*, .* …\); 1 of another shape"
    with pytest.raises(ValueError, match=told):
        load_model(spoiled(tmp_path, "olmoe", change), None)


BUFFERS = {
    "gpt_oss": ("model.layers.1.self_attn.sinks", "self_attn.sinks"),
    "deepseek_v3": ("model.layers.1.mlp.gate.e_score_correction_bias", "e_score_correction_bias"),
    "ernie4_5_moe": ("model.layers.1.mlp.moe_statics", "moe_statics.e_score_correction_bias"),
}
"""As they are stored, and how the model's own name of them ends."""


@pytest.mark.parametrize("family", BUFFERS)
def test_what_is_no_matrix_is_missed_too(family, tmp_path):
    stored, name = BUFFERS[family]
    with pytest.raises(ValueError, match=rf"1 not there \(model\.layers\.1\..*{name}\)"):
        load_model(spoiled(tmp_path, family, without(stored)), None)


DROPPED = {
    "the rotary embedding of an old checkpoint": (
        "olmoe",
        with_also("model.layers.1.self_attn.rotary_emb.inv_freq", 8),
        {},
    ),
    "a layer that predicts several tokens (DeepSeek-V3)": (
        "deepseek_v3",
        copied("model.layers.2.", "model.layers.3."),
        {},
    ),
    "a layer that predicts several tokens (GLM-4)": (
        "glm4_moe",
        copied("model.layers.2.", "model.layers.3."),
        {},
    ),
    "a head that is the embedding": (
        "olmoe",
        copied("model.embed_tokens.", "lm_head."),
        {"tie_word_embeddings": True},
    ),
}


@pytest.mark.parametrize("n_layers", [None, 2])
@pytest.mark.parametrize(("family", "change", "changes"), DROPPED.values(), ids=DROPPED)
def test_what_no_model_reads_is_dropped_without_a_word(
    family, change, changes, n_layers, tmp_path, capfd
):
    config = spoiled(tmp_path, family, change, **changes)
    model = load_model(config, None, n_layers=n_layers)
    expected = load_model(spoiled(tmp_path, family, list, **changes), None, n_layers=n_layers)
    assert torch.equal(model.hidden_states(tiny_batch()), expected.hidden_states(tiny_batch()))
    assert "REPORT" not in "".join(capfd.readouterr())


def test_a_shard_that_is_gone_is_one_line(tmp_path):
    network = tiny_network("olmoe")
    network.save_pretrained(tmp_path, max_shard_size="50KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    config = ModelConfig(source="hub", name=str(tmp_path))
    assert load_model(config, None).n_layers == 3
    shard.unlink()
    with pytest.raises(OSError, match=shard.name) as caught:
        load_model(config, None)
    assert "\n" not in str(caught.value)
