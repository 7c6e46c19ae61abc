"""The self-test passes every family as it is, and fails what would give wrong activations."""

import pytest
import torch
from tiny_moe import FAMILIES, tiny_network
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock

from deepseemoe.config import ModelConfig
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.loading import load_model
from deepseemoe.model.self_test import self_test


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes(family, dtype):
    self_test(MoeModel(tiny_network(family, dtype=dtype)))


def test_pooled_routing_passes():
    self_test(MoeModel(tiny_network("nanomoe", routing="prefix")))


def fused(block):
    """Return a block's forward pass as fused kernels do it: without a call of its modules."""

    def forward(hidden):
        x_TD = hidden.reshape(-1, hidden.shape[-1])
        _, weights, ids = block.gate.forward(x_TD)
        return block.experts.forward(x_TD, ids, weights).view_as(hidden)

    return forward


def test_a_block_that_bypasses_its_router_fails():
    network = tiny_network("olmoe")
    block = network.model.layers[1].mlp
    block.forward = fused(block)
    with pytest.raises(ValueError, match=r"expert_ids/L01 fired 0 times.* kernels bypass"):
        self_test(MoeModel(network))


def test_a_router_that_pairs_experts_and_weights_otherwise_fails():
    network = tiny_network("olmoe")
    network.model.layers[1].mlp.gate.register_forward_hook(
        lambda module, args, output: (output[0], output[1], output[2].roll(1, -1))
    )
    with pytest.raises(ValueError, match=r"expert_ids/L01 is not what .* make of moe_in; this"):
        self_test(MoeModel(network))


def test_a_router_with_other_weights_fails():
    network = tiny_network("mixtral")
    network.model.layers[1].mlp.gate.register_forward_hook(
        lambda module, args, output: (output[0], output[1].softmax(-1), output[2])
    )
    with pytest.raises(ValueError, match="expert_weights/L01 is not what"):
        self_test(MoeModel(network))


def test_a_layer_that_adds_something_else_fails():
    network = tiny_network("olmoe")
    network.model.layers[2].register_forward_hook(lambda module, args, output: output * 1.5)
    with pytest.raises(ValueError, match=r"resid_post/L02 is not resid_mid/L02 \+ moe_out/L02"):
        self_test(MoeModel(network))


def test_a_model_of_others_is_tested_when_it_loads(tmp_path, monkeypatch):
    tiny_network("olmoe").save_pretrained(tmp_path)

    def forward(self, hidden):
        return fused(self)(hidden)

    monkeypatch.setattr(OlmoeSparseMoeBlock, "forward", forward)
    with pytest.raises(ValueError, match=rf"{tmp_path}: .*expert_ids/L00 fired 0 times"):
        load_model(ModelConfig(source="hub", name=str(tmp_path)), None, n_layers=2)
