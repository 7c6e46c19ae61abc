"""Loading: from a folder or a Hub-like checkpoint, whole or in part, and what is refused."""

import json

import numpy as np
import pytest
import torch
from mxfp4 import save_mxfp4
from tiny_moe import FAMILIES, tiny_batch, tiny_config, tiny_network
from transformers import Llama4Config, Llama4ForConditionalGeneration

from deepseemoe.config import ModelConfig
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.loading import load_model
from deepseemoe.names import ROUTING_ARRAYS

ALTERNATING = {
    "qwen3_moe": {"mlp_only_layers": [1, 4]},
    "ernie4_5_moe": {"moe_layer_interval": 2},
    "llama4_text": {"moe_layers": [1, 2, 4], "no_rope_layers": [1, 0, 1, 1, 0]},
}
"""Layers with experts that are not simply the last ones, where a family can have that."""


def hub_config(folder, **changes) -> ModelConfig:
    return ModelConfig(source="hub", name=str(folder), **changes)


def deep_network(family: str):
    return tiny_network(family, **ALTERNATING.get(family, {}), num_hidden_layers=5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_loads_whole(family, tmp_path):
    network = tiny_network(family)
    network.save_pretrained(tmp_path)
    loaded = load_model(hub_config(tmp_path), None)
    assert torch.equal(loaded.logits(tiny_batch()), MoeModel(network).logits(tiny_batch()))


def recorded(model: MoeModel, layers: range) -> dict[str, torch.Tensor]:
    """Return the residual streams and routing of some layers."""
    sites = [f"{point}/L{n:02d}" for n in layers for point in ("resid_mid", "resid_post")]
    routed = [n for n in model.moe_layers if n in layers]
    sites += [f"{array}/L{n:02d}" for n in routed for array in ROUTING_ARRAYS]
    with model.record(sites) as acts:
        model.hidden_states(tiny_batch())
    return dict(acts)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_layers_compute_the_same_bits_alone(family, tmp_path):
    network = deep_network(family)
    network.save_pretrained(tmp_path)
    whole, part = MoeModel(network), load_model(hub_config(tmp_path), None, n_layers=3)
    assert part.n_layers == 3
    assert part.moe_layers == tuple(n for n in whole.moe_layers if n < 3)
    expected = recorded(whole, range(3))
    assert all(torch.equal(acts, expected[site]) for site, acts in recorded(part, range(3)).items())


@pytest.mark.parametrize("family", FAMILIES)
def test_later_layers_and_the_head_are_never_read(family, tmp_path, capfd):
    network = deep_network(family)
    network.save_pretrained(tmp_path)
    part = load_model(hub_config(tmp_path), None, n_layers=3)
    head = [] if network.config.tie_word_embeddings else [network.lm_head]
    dropped = [p.numel() for part in (*network.model.layers[3:], *head) for p in part.parameters()]
    assert part.network.num_parameters() == network.num_parameters() - sum(dropped)
    assert "UNEXPECTED" not in "".join(capfd.readouterr())
    with pytest.raises(ValueError, match="loaded without its head"):
        part.logits(tiny_batch())


def test_more_layers_than_there_are_are_all_of_them(tmp_path):
    tiny_network("olmoe").save_pretrained(tmp_path)
    assert load_model(hub_config(tmp_path), None, n_layers=9).n_layers == 3
    with pytest.raises(ValueError, match="n_layers is 0, and a model is loaded with one layer at"):
        load_model(hub_config(tmp_path), None, n_layers=0)


def test_all_layers_load_without_the_head_too(tmp_path):
    network = tiny_network("olmoe")
    network.save_pretrained(tmp_path)
    headless = load_model(hub_config(tmp_path), None, head=False)
    assert torch.equal(
        headless.hidden_states(tiny_batch()), MoeModel(network).hidden_states(tiny_batch())
    )
    assert headless.network.num_parameters() < network.num_parameters()


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
    raw = {"model_type": "sparsemoe", "auto_map": {"AutoConfig": "configuration.SparseMoeConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="model type 'sparsemoe' is no"):
        load_model(hub_config(tmp_path), None)


def test_a_model_whose_layers_are_all_dense_is_refused_by_its_configuration(tmp_path):
    tiny_config("qwen3_moe", mlp_only_layers=[0, 1, 2]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="all 3 layers are dense"):
        load_model(hub_config(tmp_path), None)


def test_sites_that_a_model_lacks_are_refused_before_weights_are_looked_for(tmp_path):
    tiny_config("olmoe").save_pretrained(tmp_path)  # and no weights
    with pytest.raises(ValueError, match="resid_post/L03: the model's last layer is 2"):
        load_model(hub_config(tmp_path), None, n_layers=9, sites=["resid_post/L03"])


def test_a_folder_without_a_model_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere holds no config.json; name a model"):
        load_model(hub_config(tmp_path / "nowhere"), None)
    with pytest.raises(FileNotFoundError, match=r"holds no config.json"):
        load_model(ModelConfig(), tmp_path)


def test_a_folder_without_weights_is_an_oserror_of_one_line(tmp_path):
    tiny_config("olmoe").save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"model\.safetensors") as caught:
        load_model(hub_config(tmp_path), None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("n_layers", [None, 2])
def test_mxfp4_checkpoints_are_expanded_exactly(n_layers, tmp_path):
    expected = save_mxfp4(tmp_path, num_hidden_layers=3)
    model = load_model(hub_config(tmp_path), None, n_layers=n_layers)
    loaded = dict(model.layers.named_parameters(prefix="model.layers"))
    read = {name: values for name, values in expected.items() if name in loaded}
    assert len(read) == 2 * model.n_layers
    for name, values in read.items():
        assert loaded[name].dtype == torch.float32
        assert np.array_equal(loaded[name].numpy(), values)
    with model.record(["expert_ids/L00", "expert_out/L00"]) as acts:  # hooks fire
        model.hidden_states(tiny_batch())
    assert acts["expert_ids/L00"].shape == (48, 3)


def save_multimodal(folder):
    """Write a tiny Llama 4 with its vision model to `folder`, and return the text model in it."""
    vision = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "intermediate_size": 64, "vision_output_dim": 32, "projector_input_dim": 32,
        "projector_output_dim": 32,
    }  # fmt: skip
    text = tiny_config("llama4_text").to_dict()
    config = Llama4Config(text_config=text, vision_config=vision)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Llama4ForConditionalGeneration(config)
    network.save_pretrained(folder)
    return network.language_model


@pytest.mark.parametrize("n_layers", [None, 2])
def test_the_text_model_is_read_out_of_a_multimodal_checkpoint(n_layers, tmp_path, capfd):
    expected = MoeModel(save_multimodal(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llama4"
    model = load_model(hub_config(tmp_path), None, n_layers=n_layers)
    assert model.n_layers == (n_layers or 3)
    found, wanted = recorded(model, range(2)), recorded(expected, range(2))
    assert all(torch.equal(found[site], wanted[site]) for site in wanted)
    assert "REPORT" not in "".join(capfd.readouterr())
    if n_layers is None:
        assert torch.equal(model.logits(tiny_batch()), expected.logits(tiny_batch()))
