"""A few tokens through a model, before a GPU is busy with many: is what we read what it does.

Kernels can bypass the modules that we listen to, and another version of a library can route in
another way; both would give wrong activations, and no error.

Axes: T tokens, E experts, K top_k.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.names import ROUTING_ARRAYS, Site

_SUMS = (("resid_mid", "resid_pre", "attn_out"), ("resid_post", "resid_mid", "moe_out"))
_RESIDUAL = ("resid_pre", "attn_out", "resid_mid", "moe_out", "resid_post")
_ROUTED = ("moe_in", "expert_out", *ROUTING_ARRAYS)
_SEGMENTS = (5, 11)
_STEPS = 16  # of the model's type: rounding, and not another rule, makes less
_SHOWN = 3


@torch.inference_mode()
def self_test(model: MoeModel) -> None:
    """Raise ValueError unless all sites of a model fire and hold what they should.

    Each must fire once in a forward pass, the residual stream must be the sum of its parts, and
    routers, recomputed from moe_in, must decide as they did.
    """
    sites = [Site(point, layer) for layer in range(model.n_layers) for point in _RESIDUAL]
    sites += [Site(point, layer) for layer in model.moe_layers for point in _ROUTED]
    with model.record(sites) as acts:
        model.hidden_states(_tokens(model))
    problems = [*_wrong_sums(model, acts), *_wrong_routes(model, acts)]
    if problems:
        shown = "; ".join(problems[:_SHOWN]) + " …" * (len(problems) > _SHOWN)
        raise ValueError(f"its self-test failed: {shown}; this version cannot read this model")


def _tokens(model: MoeModel) -> TokenBatch:
    """Return one sequence of two segments, of tokens from all over the vocabulary."""
    positions_SN = torch.cat([torch.arange(length) for length in _SEGMENTS])[None]
    n_tokens = positions_SN.numel()
    ids_SN = torch.arange(n_tokens)[None] * (model.vocab_size // n_tokens)
    return TokenBatch(ids_SN, positions_SN)


def _wrong_sums(model: MoeModel, acts: Mapping[str, Tensor]) -> Iterator[str]:
    for layer in range(model.n_layers):
        for names in _SUMS:
            total, *parts = (str(Site(name, layer)) for name in names)
            scale = sum(acts[part].abs().float() for part in parts)
            if not _is_close(model, acts[total], sum(acts[part] for part in parts), scale):
                yield f"{total} is not {' + '.join(parts)}"


def _wrong_routes(model: MoeModel, acts: Mapping[str, Tensor]) -> Iterator[str]:
    if getattr(model.network.config, "routing", "token") != "token":
        return  # NanoMoE's pooled routings, which read another input than moe_in
    for layer in model.moe_layers:
        recorded = {name: acts[str(Site(name, layer))] for name in ("moe_in", *ROUTING_ARRAYS)}
        routing = model.route(layer, recorded["moe_in"])
        chosen = routing.scores_TE.gather(-1, recorded["expert_ids"].long())
        best = routing.scores_TE.gather(-1, routing.ids_TK)
        pairs = {  # ids by their scores: experts that tie may stand in for one another
            "router_logits": (recorded["router_logits"], routing.logits_TE),
            "expert_ids": (chosen, best),
            "expert_weights": (recorded["expert_weights"], routing.weights_TK),
        }
        for name, (found, expected) in pairs.items():
            if not _is_close(model, found, expected, expected.abs().float().amax()):
                yield f"{name}/L{layer:02d} is not what the router's weights make of moe_in"


def _is_close(model: MoeModel, found: Tensor, expected: Tensor, scale: Tensor) -> bool:
    step = torch.finfo(model.dtype).eps
    far = (found.float() - expected.float()).abs() > _STEPS * step * scale + step
    return not (far | found.isnan()).any()
