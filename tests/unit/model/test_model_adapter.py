"""What recording and editing promise, whatever the family."""

import numpy as np
import pytest
import torch
from tiny_moe import VOCAB, tiny_batch, tiny_network

from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.tokens import TokenBatch


@pytest.fixture
def model() -> MoeModel:
    """A model whose layer 0 is dense, with shared experts."""
    return MoeModel(tiny_network("deepseek_v2"))


def test_recorded_rows_are_tokens_in_text_order(model):
    tokens = tiny_batch(3, 10)
    with model.record(["resid_pre/L00"]) as acts:
        model.hidden_states(tokens)
    embedded = model.network.get_input_embeddings()(tokens.token_ids.reshape(-1))
    assert torch.equal(acts["resid_pre/L00"], embedded)
    assert not acts["resid_pre/L00"].requires_grad


def test_each_forward_pass_replaces_what_was_recorded(model):
    first, second = tiny_batch(1, 6, seed=1), tiny_batch(2, 9, seed=2)
    with model.record(["resid_post/L02"]) as acts:
        model.hidden_states(first)
        assert acts["resid_post/L02"].shape == (6, model.d_model)
        model.hidden_states(second)
    assert acts["resid_post/L02"].shape == (18, model.d_model)


def test_a_dense_layer_has_a_block_but_no_routing(model):
    assert model.moe_layers == (1, 2)
    with model.record(["moe_in/L00", "moe_out/L00"]) as acts:
        model.hidden_states(tiny_batch())
    assert acts["moe_out/L00"].shape == acts["moe_in/L00"].shape
    for site in ("expert_ids/L00", "expert_weights/L00", "router_logits/L00", "expert_out/L00"):
        with (
            pytest.raises(ValueError, match=f"{site}: layer 0 is dense"),
            model.record([site]),
        ):
            pytest.fail("a dense layer routed")
    with pytest.raises(ValueError, match="layer 0 is dense; layers with experts are 1, 2"):
        model.router_weight(0)


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (["resid_post/L07"], "resid_post/L07: the model's last layer is 2"),
        (["mlp_in/L01"], "a site is written resid_post/L08"),
        (["resid_post"], "a site is written resid_post/L08"),
        (["moe_in/L09", "expert_ids/L00"], "moe_in/L09: .*; expert_ids/L00: layer 0 is dense"),
    ],
)
def test_sites_that_are_not_there_are_refused_in_one_line(model, sites, message):
    with pytest.raises(ValueError, match=message) as error, model.record(sites):
        pytest.fail("recording began")
    assert "\n" not in str(error.value)


def test_shared_experts_that_are_not_there_are_refused():
    model = MoeModel(tiny_network("olmoe"))
    with pytest.raises(ValueError, match="has no shared experts"), model.record(["shared_out/L00"]):
        pytest.fail("recording began")


def test_routing_arrays_cannot_be_edited(model):
    with (
        pytest.raises(ValueError, match="expert_ids/L01: only resid_pre, "),
        model.edit({"expert_ids/L01": lambda ids: ids}),
    ):
        pytest.fail("editing began")


def test_a_site_that_does_not_fire_is_an_error(model, monkeypatch):
    block = model.layers[1].mlp
    monkeypatch.setattr(block, "forward", lambda x: block.shared_experts(x))  # bypasses the router
    with model.record(["moe_out/L01"]):
        model.hidden_states(tiny_batch())
    with (
        pytest.raises(ValueError, match="expert_ids/L01 fired 0 times"),
        model.record(["expert_ids/L01", "moe_out/L01"]),
    ):
        model.hidden_states(tiny_batch())
    with (
        pytest.raises(ValueError, match="expert_out/L01 fired 0 times"),
        model.edit({"expert_out/L01": torch.zeros_like}),
    ):
        model.hidden_states(tiny_batch())


def test_a_site_that_fires_twice_is_an_error(model, monkeypatch):
    block = model.layers[2].mlp
    once = block.forward
    monkeypatch.setattr(block, "forward", lambda x: once(x) + block.shared_experts(x))
    with (
        pytest.raises(ValueError, match="shared_out/L02 fired 2 times"),
        model.record(["shared_out/L02"]),
    ):
        model.hidden_states(tiny_batch())


def test_a_recording_without_a_forward_pass_is_an_error(model):
    with pytest.raises(ValueError, match="nothing was recorded"), model.record(["resid_post/L00"]):
        pass


def test_an_error_inside_a_recording_is_not_hidden(model):
    with pytest.raises(KeyError, match="mine"), model.record(["resid_post/L00"]):
        raise KeyError("mine")


def test_an_edit_of_another_shape_is_refused(model):
    with (
        pytest.raises(ValueError, match=r"edit of resid_post/L01 returned shape \(48, 31\)"),
        model.edit({"resid_post/L01": lambda x: x[:, 1:]}),
    ):
        model.hidden_states(tiny_batch())


def test_no_hook_is_left_behind(model):
    def n_hooks() -> int:
        modules = model.network.modules()
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    before = n_hooks()
    with model.record(["expert_ids/L01"]), model.edit({"resid_mid/L01": lambda x: x}):
        model.hidden_states(tiny_batch())
        assert n_hooks() > before
    with pytest.raises(RuntimeError, match="mine"), model.record(["moe_in/L01"]):
        raise RuntimeError("mine")
    assert n_hooks() == before


def test_edits_at_one_site_follow_each_other_and_end_apart(model):
    tokens, site = tiny_batch(), "moe_in/L01"
    with model.record([site]) as acts:
        model.hidden_states(tokens)
        plain = acts[site].clone()
        with model.edit({site: lambda x: x + 1}):
            with model.edit({site: lambda x: x * 2}):
                model.hidden_states(tokens)
                assert torch.equal(acts[site], (plain + 1) * 2)
            model.hidden_states(tokens)
            assert torch.equal(acts[site], plain + 1)
        model.hidden_states(tokens)
    assert torch.equal(acts[site], plain)


def test_editing_resid_mid_changes_the_residual_sum_too(model):
    site = "resid_mid/L01"
    with (
        model.record([site, "moe_out/L01", "resid_post/L01"]) as acts,
        model.edit({site: torch.zeros_like, "moe_out/L01": torch.zeros_like}),
    ):
        model.hidden_states(tiny_batch())
    assert acts["resid_post/L01"].abs().max() == 0


def test_zeroing_resid_post_leaves_a_model_that_knows_nothing(model):
    with model.edit({"resid_post/L02": torch.zeros_like}):
        assert model.logits(tiny_batch()).abs().max() == 0


def test_a_stopped_pass_records_the_same_and_computes_no_more(model, monkeypatch):
    tokens, sites = tiny_batch(), ["moe_in/L00", "expert_ids/L01", "resid_post/L01"]
    with model.record(sites) as whole:
        model.hidden_states(tokens)
    last = model.layers[2]
    monkeypatch.setattr(last, "forward", lambda *args, **kwargs: pytest.fail("went on"))
    with model.record(sites, stop=True) as stopped:
        hidden = model.hidden_states(tokens)
        with pytest.raises(ValueError, match="ends before the head"):
            model.logits(tokens)
    for site in sites:
        assert torch.equal(whole[site], stopped[site])
    assert torch.equal(hidden.flatten(0, 1), stopped["resid_post/L01"])


def test_a_pass_goes_as_far_as_the_last_of_several_recordings(model):
    tokens = tiny_batch()
    with (
        model.record(["resid_post/L00"], stop=True),
        model.record(["resid_post/L02"], stop=True) as far,
    ):
        model.hidden_states(tokens)
        assert far["resid_post/L02"].shape == (48, model.d_model)
    with model.record(["resid_post/L00"], stop=True), model.record(["resid_pre/L00"]):
        assert torch.equal(model.hidden_states(tokens), model.hidden_states(tokens))
        assert model.logits(tokens).shape == (2, 24, VOCAB)


def test_an_edit_can_carry_gradients(model):
    shift = torch.zeros(model.d_model, requires_grad=True)
    with model.edit({"resid_mid/L01": lambda x: x + shift}):
        model.logits(tiny_batch()).logsumexp(-1).sum().backward()
    assert shift.grad.abs().max() > 0
    assert not any(p.requires_grad for p in model.network.parameters())


def test_an_expert_can_be_asked_about_tokens_it_was_not_given(model):
    x = torch.randn(5, model.d_model)
    everyone = torch.arange(model.n_experts).expand(5, -1)
    outputs = model.expert_outputs(1, x, everyone, torch.ones(5, model.n_experts))
    experts = model.layers[1].mlp.experts
    for expert in range(model.n_experts):
        gate, up = (x @ experts.gate_up_proj[expert].T).chunk(2, -1)
        written = (torch.nn.functional.silu(gate) * up) @ experts.down_proj[expert].T
        assert torch.allclose(outputs[:, expert], written, atol=1e-5)


def test_expert_outputs_do_not_disturb_a_recording(model):
    with model.record(["expert_out/L01", "moe_in/L01"]) as acts:
        model.hidden_states(tiny_batch())
        before = acts["expert_out/L01"].clone()
        ids = torch.zeros(48, 1, dtype=torch.uint8)
        model.expert_outputs(1, acts["moe_in/L01"], ids, torch.ones(48, 1))
        assert torch.equal(acts["expert_out/L01"], before)


def test_a_model_is_put_in_evaluation_mode():
    network = tiny_network("mixtral").train()  # its blocks scale their input when they train
    assert not MoeModel(network).network.training


def test_experts_can_be_given_the_domains_that_they_were_made_for():
    network, domains = tiny_network("flex_olmo", num_experts=3), ["public", "math", "code"]
    assert MoeModel(network).expert_domains is None
    assert MoeModel(network, expert_domains=domains).expert_domains == ("public", "math", "code")
    with pytest.raises(ValueError, match="names 2 experts, and the model has 3"):
        MoeModel(network, expert_domains=domains[:2])


def test_arrays_of_a_shard_become_a_batch():
    ids = np.arange(6, dtype=np.uint32).reshape(2, 3)
    batch = TokenBatch.from_arrays(ids, ids)
    assert batch.token_ids.dtype == batch.positions.dtype == torch.int64
    assert batch.token_ids.tolist() == [[0, 1, 2], [3, 4, 5]]
