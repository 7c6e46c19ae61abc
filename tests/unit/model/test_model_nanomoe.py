"""NanoMoE as a transformers model, and what its three kinds of routing read."""

import pytest
import torch
from tiny_moe import packed_batch, tiny_batch, tiny_config, tiny_network
from transformers import AutoModel, AutoModelForCausalLM

from deepseemoe.config import ArchitectureConfig
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.nanomoe.configuration import NanoMoeConfig
from deepseemoe.model.nanomoe.modeling import NanoMoeForCausalLM
from deepseemoe.model.nanomoe.pooling import pooling_matrix, segments_of
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.model.training import new_network

ROUTINGS = ("token", "sequence", "prefix")


@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_saved_model_comes_back_through_the_auto_classes(tmp_path, routing):
    network = tiny_network("nanomoe", routing=routing).eval()
    network.save_pretrained(tmp_path)
    ids = tiny_batch().token_ids
    whole = AutoModelForCausalLM.from_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tmp_path)
    assert type(whole) is NanoMoeForCausalLM
    assert whole.config.routing == routing
    saved, loaded = network.state_dict(), whole.state_dict()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert torch.allclose(whole(ids).logits, network(ids).logits, atol=1e-5)
    hidden = network.model(ids).last_hidden_state
    assert torch.allclose(base(ids).last_hidden_state, hidden, atol=1e-5)


def test_embedding_and_head_are_one_weight_unless_untied():
    tied = tiny_network("nanomoe")
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    untied = tiny_network("nanomoe", tie_word_embeddings=False)
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight


def test_all_ways_to_run_experts_agree():
    network, ids = tiny_network("nanomoe").eval(), tiny_batch().token_ids
    assert network.config._experts_implementation == "grouped_mm"
    expected = network(ids).logits
    for way in ("eager", "batched_mm"):
        network.set_experts_implementation(way)
        assert torch.allclose(network(ids).logits, expected, atol=1e-5)


def test_generation_goes_on_with_the_likeliest_token():
    network = tiny_network("nanomoe").eval()
    ids = tiny_batch(2, 5).token_ids
    longer = network.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
    for step in range(5, longer.shape[1]):
        assert torch.equal(network(longer[:, :step]).logits[:, -1].argmax(-1), longer[:, step])


def test_labels_give_the_loss_of_the_next_token():
    network, ids = tiny_network("nanomoe").eval(), tiny_batch().token_ids
    out = network(ids, labels=ids)
    expected = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    )
    assert torch.allclose(out.loss, expected)


def test_every_weight_learns():
    network = tiny_network("nanomoe").train()
    ids = tiny_batch(8, 24).token_ids
    network(ids, labels=ids).loss.backward()
    idle = [name for name, p in network.named_parameters() if not p.grad.abs().max() > 0]
    assert idle == []


def test_shared_experts_are_as_wide_as_they_are_many():
    network = tiny_network("nanomoe", n_shared_experts=3, moe_intermediate_size=16)
    assert network.model.layers[1].mlp.shared_experts.down_proj.weight.shape == (32, 48)
    assert tiny_network("nanomoe", n_shared_experts=0).model.layers[1].mlp.shared_experts is None


def test_the_architecture_of_the_configuration_becomes_the_network():
    shape = ArchitectureConfig(
        d_model=24, n_layers=3, n_heads=3, n_experts=6, top_k=2, d_expert=10, n_dense_layers=1
    )
    model = MoeModel(new_network(shape, vocab_size=50, max_positions=32, seed=0))
    assert model.moe_layers == (1, 2)
    assert (model.d_model, model.n_layers, model.n_experts) == (24, 3, 6)
    assert (model.top_k, model.d_expert, model.n_shared_experts) == (2, 10, 1)
    dense = model.network.model.layers[0].mlp
    assert dense.down_proj.weight.shape == (24, 30)  # as wide as what a token uses elsewhere


def test_initial_weights_follow_from_the_seed_alone():
    shape = ArchitectureConfig(d_model=16, n_layers=1, n_heads=2, d_expert=8)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    one = new_network(shape, vocab_size=50, max_positions=32, seed=0).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    same = new_network(shape, vocab_size=50, max_positions=32, seed=0).state_dict()
    other = new_network(shape, vocab_size=50, max_positions=32, seed=1).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"routing": "word"}, "routing is one of token, sequence, prefix"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok 9 exceeds num_experts 8"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(wrong, message):
    with pytest.raises(Exception, match=message):
        tiny_config("nanomoe", **wrong)
    assert NanoMoeConfig().routing == "token"


# Routing on more than a token


def later_token_changed(tokens: TokenBatch) -> TokenBatch:
    ids = tokens.token_ids.clone()
    ids[:, -1] = (ids[:, -1] + 1) % 90 + 3
    return TokenBatch(ids, tokens.positions)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_only_sequence_routing_sees_the_future(routing):
    model = MoeModel(tiny_network("nanomoe", routing=routing))
    tokens = tiny_batch(2, 20)
    difference = model.logits(tokens) - model.logits(later_token_changed(tokens))
    before_the_change = difference[:, :-1].abs().max()
    assert before_the_change > 1e-3 if routing == "sequence" else before_the_change < 1e-5


@pytest.mark.parametrize("routing", ROUTINGS)
def test_every_routing_keeps_packed_documents_apart(routing):
    model = MoeModel(tiny_network("nanomoe", routing=routing))
    tokens = packed_batch([[9, 1, 14], [5, 19]])
    packed = model.hidden_states(tokens)
    start = 0
    for length in (9, 1, 14):
        part = TokenBatch(*(t[:1, start : start + length] for t in tokens))
        assert torch.allclose(
            packed[:1, start : start + length], model.hidden_states(part), atol=1e-5
        )
        start += length


def test_sequence_routing_gives_a_document_one_set_of_experts():
    model = MoeModel(tiny_network("nanomoe", routing="sequence"))
    with model.record(["expert_ids/L01", "expert_ids/L02"]) as acts:
        model.hidden_states(packed_batch([[9, 15], [24, 0]]))
    for ids in acts.values():
        for document in (ids[:9], ids[9:24], ids[24:]):
            assert (document == document[0]).all()
        assert len({tuple(sorted(row.tolist())) for row in ids}) > 1


def test_prefix_routing_reads_the_mean_of_the_document_so_far():
    model = MoeModel(tiny_network("nanomoe", routing="prefix"))
    with model.record(["moe_in/L01", "router_logits/L01"]) as acts:
        model.hidden_states(packed_batch([[5, 7]]))
    moe_in, weight = acts["moe_in/L01"], model.router_weight(1)
    for start, stop in ((0, 5), (5, 12)):
        counts = torch.arange(1, stop - start + 1)[:, None]
        means = moe_in[start:stop].cumsum(0) / counts
        assert torch.allclose(means @ weight.T, acts["router_logits/L01"][start:stop], atol=1e-5)


def test_padding_is_in_no_average():
    positions = torch.arange(4)[None]
    matrix = pooling_matrix("sequence", positions, torch.tensor([[1, 1, 1, 0]]))
    assert torch.equal(matrix[0, 0], torch.tensor([1 / 3, 1 / 3, 1 / 3, 0]))
    assert pooling_matrix("token", positions, None) is None


def test_segments_open_where_positions_do_not_go_on():
    positions = torch.tensor([[0, 1, 0, 0, 1], [3, 4, 5, 0, 1]])
    assert segments_of(positions).tolist() == [[1, 1, 2, 3, 3], [1, 1, 1, 2, 2]]
