"""What has to hold for a model of any family and configuration, as functions that assert it.

Axes: T tokens, E experts, K top_k.
"""

import functools

import torch
from pruned_moe import Bans, even_bans, kept_experts, n_bannable, pruned
from tiny_moe import packed_batch, tiny_batch
from torch import Tensor

from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.contributions import weigh_inputs
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.names import HOOK_POINTS, ROUTING_ARRAYS, Site, layer_name

TOLERANCE = {torch.float64: 2e-5, torch.float32: 2e-5, torch.bfloat16: 4e-2}
Acts = dict[str, Tensor]


def all_sites(model: MoeModel) -> list[str]:
    """Return every site that the model has."""
    points = [p for p in HOOK_POINTS if p != "shared_out" or model.n_shared_experts]
    moe_only = {"expert_out", "shared_out", *ROUTING_ARRAYS}
    return [
        str(Site(point, layer))
        for layer in range(model.n_layers)
        for point in (*points, *ROUTING_ARRAYS)
        if layer in model.moe_layers or point not in moe_only
    ]


def recorded(model: MoeModel, tokens: TokenBatch | None = None) -> Acts:
    """Return all values of one forward pass."""
    with model.record(all_sites(model)) as acts:
        model.hidden_states(tokens or tiny_batch())
    return dict(acts)


def at(acts: Acts, layer: int, *names: str) -> tuple[Tensor, ...]:
    """Return the named values of a layer."""
    return tuple(acts[f"{name}/{layer_name(layer)}"] for name in names)


def close(a: Tensor, b: Tensor, tolerance: float | None = None) -> bool:
    """Say whether values are equal up to the rounding of their type."""
    scale = max(1.0, b.float().abs().max().item())
    limit = TOLERANCE[b.dtype] if tolerance is None else tolerance
    return (a.float() - b.float()).abs().max().item() <= limit * scale


def the_residual_stream_is_the_sum_of_what_is_written(model: MoeModel, acts: Acts) -> None:
    for layer in range(model.n_layers):
        pre, attn_out, mid, moe_out, post = at(
            acts, layer, "resid_pre", "attn_out", "resid_mid", "moe_out", "resid_post"
        )
        assert torch.equal(pre + attn_out, mid)
        assert torch.equal(mid + moe_out, post)
        if layer:
            assert torch.equal(pre, *at(acts, layer - 1, "resid_post"))


def the_block_is_the_sum_of_its_experts(model: MoeModel, acts: Acts) -> None:
    assert model.moe_layers
    for layer in model.moe_layers:
        out, moe_out = at(acts, layer, "expert_out", "moe_out")
        if model.n_shared_experts:
            (shared_out,) = at(acts, layer, "shared_out")
            out = out + shared_out
        if model.spec.block_out_norm:
            out = getattr(model.layers[layer], model.spec.block_out_norm)(out)
        assert torch.equal(out, moe_out)


def the_router_reads_moe_in(model: MoeModel, acts: Acts) -> None:
    for layer in range(model.n_layers):
        mid, moe_in = at(acts, layer, "resid_mid", "moe_in")
        assert close(model.router_input(layer, mid), moe_in)
        if model.spec.router_norm is None:
            assert torch.equal(mid, moe_in)
        else:
            power = mid.float().square().mean(-1, keepdim=True)
            scale = (power + model.network.config.rms_norm_eps).sqrt()
            assert close(mid / scale * model.router_gain(layer), moe_in)


def router_rows_times_input_are_the_logits(model: MoeModel, acts: Acts) -> None:
    for layer in model.moe_layers:
        moe_in, expected = at(acts, layer, "moe_in", "router_logits")
        bias = getattr(getattr(block(model, layer), model.spec.router), "bias", None)
        logits = moe_in.float() @ model.router_weight(layer).float().T
        logits = logits if bias is None else logits + bias.float()
        assert close(logits, expected, TOLERANCE[model.dtype])


def recomputed_routing_is_the_routing_that_was_used(model: MoeModel, acts: Acts) -> None:
    for layer in model.moe_layers:
        moe_in, logits, ids, weights = at(acts, layer, "moe_in", *ROUTING_ARRAYS)
        assert ids.shape == weights.shape == (len(moe_in), model.top_k)
        assert (weights.diff(dim=-1) <= 0).all()
        again = model.route(layer, moe_in)
        assert torch.equal(again.logits_TE, logits)
        assert torch.equal(again.ids_TK, ids)
        assert torch.equal(again.weights_TK, weights)
        assert again.weights_TK.dtype == weights.dtype
        best = again.scores_TE.topk(model.top_k, -1).values
        assert torch.equal(again.scores_TE.gather(1, ids).sort(-1, descending=True).values, best)


def experts_get_the_recorded_decisions(model: MoeModel, tokens: TokenBatch) -> None:
    """Hold what is recorded against what the experts are called with, to the last bit."""
    calls, handles = {}, []
    for layer in model.moe_layers:
        experts = getattr(block(model, layer), model.spec.experts)
        take = functools.partial(lambda layer, _, args: calls.update({layer: args}), layer)
        handles.append(experts.register_forward_pre_hook(take))
    acts = recorded(model, tokens)
    for handle in handles:
        handle.remove()
    for layer in model.moe_layers:
        moe_in, ids, weights = at(acts, layer, "moe_in", "expert_ids", "expert_weights")
        assert ids.sort(-1).values.diff(dim=-1).gt(0).all()  # no expert twice
        recorded_TE = scattered(ids, weights, model.n_experts)
        if len(calls[layer]) == 1:  # Llama 4: every token for every expert, times its score
            rows_ETD = moe_in * recorded_TE.T[..., None]
            assert torch.equal(calls[layer][0], rows_ETD.flatten(0, 1))
        else:
            rows, used_ids, used_weights = calls[layer]
            assert torch.equal(rows, moe_in)
            assert torch.equal(scattered(used_ids, used_weights, model.n_experts), recorded_TE)


def scattered(ids_TK: Tensor, weights_TK: Tensor, n_experts: int) -> Tensor:
    """Return the weights by expert (T, E), 0 for those that were not chosen."""
    return weights_TK.new_zeros(len(ids_TK), n_experts).scatter(1, ids_TK, weights_TK)


def outputs_of_chosen_experts_sum_to_the_routed_output(model: MoeModel, acts: Acts) -> None:
    for layer in model.moe_layers:
        x, ids, weights, out = at(
            acts, layer, "moe_in", "expert_ids", "expert_weights", "expert_out"
        )
        parts = model.expert_outputs(layer, x, ids, weights)
        assert parts.shape == (len(x), model.top_k, model.d_model)
        assert close(parts.float().sum(1), out)
        last, weight = ids[:, -1:], weights[:, -1:]
        if model.spec.contributions is weigh_inputs:
            plain = model.expert_outputs(layer, x * weight, last, torch.ones_like(weight))[:, 0]
        else:
            plain = model.expert_outputs(layer, x, last, torch.ones_like(weight))[:, 0] * weight
        assert close(plain, parts[:, -1])


def an_edit_that_changes_nothing_is_exactly_no_edit(model: MoeModel, tokens: TokenBatch) -> None:
    before = model.logits(tokens)
    sites = [site for site in all_sites(model) if Site.parse(site).hook_point in HOOK_POINTS]
    with model.edit(dict.fromkeys(sites, lambda value: value)):
        assert torch.equal(model.logits(tokens), before)
    with model.ban({}), model.ban(dict.fromkeys(model.moe_layers, ())):
        assert torch.equal(model.logits(tokens), before)
    assert torch.equal(model.logits(tokens), before)


def one_document_gets_what_transformers_gives_it(model: MoeModel, tokens: TokenBatch) -> None:
    native = model.network(tokens.token_ids, use_cache=False, output_hidden_states=True)
    assert close(model.logits(tokens), native.logits)
    acts = recorded(model, tokens)
    for layer in range(model.n_layers):
        assert close(*at(acts, layer, "resid_pre"), native.hidden_states[layer].flatten(0, 1))


def a_packed_document_gets_what_it_gets_alone(model: MoeModel, lengths: list[list[int]]) -> None:
    tokens = packed_batch(lengths)
    alone = [
        model.hidden_states(TokenBatch(*(part[None] for part in document)))[0]
        for row, parts in enumerate(lengths)
        for document in zip(*(t[row].split(parts) for t in tokens), strict=True)
    ]
    assert nearly_all_close(model.hidden_states(tokens).flatten(0, 1), torch.cat(alone))


def nearly_all_close(a_TD: Tensor, b_TD: Tensor) -> bool:
    """Say whether rows are close; in bfloat16 most of them, since near ties of routers flip."""
    distance_T = (a_TD - b_TD).float().abs().amax(-1) / max(1.0, b_TD.float().abs().max().item())
    share = 0.7 if b_TD.dtype == torch.bfloat16 else 1.0
    return (distance_T <= TOLERANCE[b_TD.dtype]).float().mean().item() >= share


def a_ban_is_a_model_without_these_experts(
    model: MoeModel, bans: Bans, tokens: TokenBatch, **changes
) -> None:
    """Hold a ban against a model that experts were cut out of; `changes` are its other keys."""
    other = pruned(model, bans, **changes)
    with model.ban(bans):
        acts, logits = recorded(model, tokens), model.logits(tokens)
        recomputed_routing_is_the_routing_that_was_used(model, acts)
    expected = recorded(other, tokens)
    assert nearly_all_close(logits.flatten(0, 1), other.logits(tokens).flatten(0, 1))
    for layer in model.moe_layers:
        (ids,), (other_ids,) = at(acts, layer, "expert_ids"), at(expected, layer, "expert_ids")
        assert not torch.isin(ids.cpu(), torch.tensor(bans[layer])).any()
        same = (kept_experts(model, bans[layer])[other_ids] == ids).all(-1).float().mean()
        assert same >= (0.9 if model.dtype == torch.bfloat16 else 1.0)


def block(model: MoeModel, layer: int) -> torch.nn.Module:
    """Return the MLP or Mixture of Experts of a layer."""
    return getattr(model.layers[layer], model.spec.block)


IDENTITIES = (
    the_residual_stream_is_the_sum_of_what_is_written,
    the_block_is_the_sum_of_its_experts,
    the_router_reads_moe_in,
    router_rows_times_input_are_the_logits,
    recomputed_routing_is_the_routing_that_was_used,
    outputs_of_chosen_experts_sum_to_the_routed_output,
)
"""Claims about the values of one forward pass."""


def all_claims(model: MoeModel, lengths: list[list[int]], *, seed: int = 0) -> None:
    """Assert all claims on packed documents of these lengths, with random bans."""
    tokens = packed_batch(lengths)
    acts = recorded(model, tokens)
    for identity in IDENTITIES:
        identity(model, acts)
    experts_get_the_recorded_decisions(model, tokens)
    an_edit_that_changes_nothing_is_exactly_no_edit(model, tokens)
    a_packed_document_gets_what_it_gets_alone(model, lengths)
    if getattr(model.network.config, "attention_chunk_size", 1) is not None:  # else it refuses
        rows = [row for row, parts in enumerate(lengths) if len(parts) == 1]
        one_document_gets_what_transformers_gives_it(model, TokenBatch(*(t[rows] for t in tokens)))
    if n_banned := n_bannable(model):
        a_ban_is_a_model_without_these_experts(model, even_bans(model, n_banned, seed), tokens)
