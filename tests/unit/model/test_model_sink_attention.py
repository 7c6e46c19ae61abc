"""Our fused attention with sinks gives what transformers' eager one gives."""

import pytest
import torch
from tiny_moe import packed_batch, tiny_batch, tiny_network

from deepseemoe.model.adapter import MoeModel


@pytest.mark.parametrize("length", [1, 7, 8, 23])
@pytest.mark.parametrize("head_dim", [8, 12, 16])
def test_fused_sinks_match_eager_attention(length, head_dim):
    tokens = tiny_batch(2, length)
    fused = MoeModel(tiny_network("gpt_oss", head_dim=head_dim))
    eager = MoeModel(tiny_network("gpt_oss", head_dim=head_dim, attn_implementation="eager"))
    assert fused.network.config._attn_implementation == "sink_attn"
    assert torch.allclose(fused.logits(tokens), eager.logits(tokens), atol=1e-5)


def test_fused_sinks_match_eager_attention_on_packed_documents():
    tokens = packed_batch([[11, 1, 20], [7, 25], [32]])
    fused = MoeModel(tiny_network("gpt_oss"))
    eager = MoeModel(tiny_network("gpt_oss", attn_implementation="eager"))
    assert torch.allclose(fused.logits(tokens), eager.logits(tokens), atol=1e-5)


def test_sinks_take_weight_from_attention():
    tokens, model = tiny_batch(), MoeModel(tiny_network("gpt_oss"))
    before = model.logits(tokens)
    for layer in model.network.base_model.layers:
        layer.self_attn.sinks.data.fill_(30.0)  # nearly all weight goes to the sink
        layer.self_attn.o_proj.bias.data.zero_()
    with model.record(["attn_out/L00"]) as acts:
        after = model.logits(tokens)
    assert acts["attn_out/L00"].abs().max() < 1e-6
    assert not torch.allclose(before, after)


def test_gpt_oss_masks_its_windows_without_our_masks_too():
    tokens = tiny_batch()
    model = MoeModel(tiny_network("gpt_oss"))
    plain = model.network(tokens.token_ids, use_cache=False).logits
    assert torch.allclose(plain, model.logits(tokens), atol=1e-5)
