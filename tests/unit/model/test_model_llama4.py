"""What is odd about Llama 4: scores scale inputs, outputs are added in place, attention by chunks.

Axes: T tokens, E experts, K top_k.
"""

import pytest
import torch
from moe_claims import at, recorded
from tiny_moe import packed_batch, tiny_batch, tiny_network

from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.forms import SCORES
from deepseemoe.model.routers import Routing


@pytest.fixture
def model() -> MoeModel:
    """A model whose layer 0 is dense and whose layer 1 has no rotary positions."""
    return MoeModel(tiny_network("llama4_text"))


def test_the_model_is_found_with_and_without_its_head(model):
    bare = MoeModel(model.network.model)
    assert torch.equal(bare.hidden_states(tiny_batch()), model.hidden_states(tiny_batch()))
    with pytest.raises(ValueError, match="loaded without its head"):
        bare.logits(tiny_batch())


def test_an_expert_is_not_linear_in_its_weight(model):
    x, ids = torch.randn(6, model.d_model), torch.tensor([[3]] * 6)
    whole, half = (model.expert_outputs(1, x, ids, torch.full((6, 1), w)) for w in (1.0, 0.5))
    assert not torch.allclose(whole / 2, half, atol=1e-3)
    assert torch.equal(half, model.expert_outputs(1, x / 2, ids, torch.ones(6, 1)))


def test_weights_of_another_type_do_not_change_the_type_of_outputs():
    model = MoeModel(tiny_network("llama4_text", dtype=torch.bfloat16))
    x, ids = torch.randn(6, model.d_model, dtype=torch.bfloat16), torch.tensor([[3]] * 6)
    outputs = model.expert_outputs(1, x, ids.to(torch.uint8), torch.ones(6, 1))
    assert outputs.dtype == torch.bfloat16


def test_a_new_expert_out_is_added_to_the_shared_output_exactly(model):
    new = torch.randn(48, model.d_model)
    sites = ["expert_out/L01", "shared_out/L01", "moe_out/L01"]
    with model.record(sites) as acts, model.edit({"expert_out/L01": lambda x: new}):
        model.hidden_states(tiny_batch())
    routed, shared, both = at(acts, 1, "expert_out", "shared_out", "moe_out")
    assert torch.equal(routed, new)
    assert torch.equal(shared + new, both)


def test_what_an_edit_returns_is_not_written_to(model):
    mean = torch.randn(model.d_model).expand(48, -1)
    before = mean.clone()
    with model.edit({"shared_out/L01": lambda x: mean}):
        model.hidden_states(tiny_batch())
    assert torch.equal(mean, before)


def test_experts_come_by_logit_where_their_scores_round_to_the_same():
    router = torch.nn.Linear(1, 5, bias=False)
    router.top_k = 3
    logits = torch.tensor([[6.5, -1.0, 7.0, 6.75, -2.0], [0.5, 2.0, 0.25, 2.0, 1.0]]).bfloat16()
    ids = torch.tensor([[0, 2, 3], [4, 1, 3]])
    output = SCORES.write(Routing(logits, logits, ids, logits.sigmoid().gather(1, ids)))
    assert output[0][0, 2] == output[0][0, 3]
    decisions = SCORES.read(router, output)
    assert decisions.expert_ids.tolist() == [[2, 3, 0], [1, 3, 4]]
    assert torch.equal(decisions.expert_weights, output[0].gather(1, decisions.expert_ids))


def test_a_score_that_rounds_to_zero_is_still_a_choice():
    router = torch.nn.Linear(1, 3, bias=False)
    router.top_k = 2
    output = (torch.tensor([[0.0, 0.7, 0.0]]), torch.tensor([[-800.0, 0.9, -120.0]]))
    assert SCORES.read(router, output).expert_ids.tolist() == [[1, 2]]


def test_documents_that_would_get_another_temperature_are_refused():
    model = MoeModel(tiny_network("llama4_text", floor_scale=16))
    assert model.hidden_states(packed_batch([[10, 5], [15]])).isfinite().all()
    assert recorded(model, tiny_batch(2, 40))  # single documents are where the model takes them for
    with pytest.raises(
        ValueError, match="inside a sequence of 24 tokens .* at most .* = 15 tokens"
    ):
        model.hidden_states(packed_batch([[10, 14]]))
    rotary = MoeModel(tiny_network("llama4_text", floor_scale=16, no_rope_layers=[1, 1, 1]))
    assert rotary.hidden_states(packed_batch([[10, 14]])).isfinite().all()
