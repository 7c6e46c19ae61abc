"""The map by weights: what a feature adds to a router's logits along the residual stream.

Axes: T tokens, D d_model, L layers of the window, F features, E experts.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from deepseemoe.corpus.shards import TokenShard
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.names import Site

SAMPLE_TOKENS = 1024
"""Tokens on which the scale of the residual before a router is measured."""


def weight_map(
    model: MoeModel,
    dictionary: Dictionary,
    layer: int,
    *,
    features: np.ndarray,
    mean_activation_F: np.ndarray,
    scale: float,
) -> np.ndarray:
    """Return what each feature adds to the logit of each expert (F, E), over the mean expert.

        w_map = (w_e - mean of w) · (gain * d_f) * E[z_f | f fires] / E[rms]

    with w the router's rows, gain that of the norm before it, d_f what the feature has written to
    the residual there and `scale` = E[rms] what the norm divides by. Adding one number to all
    logits changes no choice, hence the mean. This is the direct path: what attention and other
    blocks make of the feature on the way is not in it. NaN where no path of weights leads to the
    router.
    """
    path_FD = written_before(dictionary, layer)[features]
    router_ED = _floats(model.router_weight(layer))
    centred_ED = (router_ED - router_ED.mean(0)) * _floats(model.router_gain(layer))
    logits_FE = path_FD @ centred_ED.T * (mean_activation_F[:, None] / scale)
    return np.where(path_FD.any(axis=1, keepdims=True), logits_FE, np.nan)


def written_before(dictionary: Dictionary, layer: int) -> np.ndarray:
    """Return the direction (F, D) that each feature has in the residual at the router of `layer`.

    A crosscoder's: its decoder of resid_post one layer below. A transcoder's: the sum of what it
    adds by moe_out at layers below; 0 for features that read this layer or a later one.
    """
    decoder_FLD, place = dictionary.decoder_FLD, layer - dictionary.window.first
    if dictionary.kind == "crosscoder":
        return _floats(decoder_FLD[:, place - 1])
    return _floats(decoder_FLD[:, :place].sum(1))


@torch.inference_mode()
def norm_scales(
    model: MoeModel, corpus: Sequence[Callable[[], TokenShard]], layers: Sequence[int]
) -> dict[int, float]:
    """Return what the norm before each router divides the residual by, on average (E[rms]).

    Measured on the first tokens of the text: moe_in = gain * resid_mid / scale defines the scale of
    a token, whatever the norm and its epsilon; it is 1 where a family has no norm there.
    """
    ids, positions = _first_tokens(corpus)
    sites = [str(Site(point, n)) for n in layers for point in ("resid_mid", "moe_in")]
    with model.record(sites) as acts:
        model.hidden_states(TokenBatch.from_arrays(ids[None], positions[None]))
    inside = positions > 0  # position 0 has a huge norm and is not a valid row
    scales = {}
    for layer in layers:
        before_TD, after_TD = (
            _floats(acts[str(Site(point, layer))])[inside] for point in ("resid_mid", "moe_in")
        )
        gained_TD = before_TD * _floats(model.router_gain(layer))
        scale_T = (gained_TD * gained_TD).sum(1) / (gained_TD * after_TD).sum(1)
        scales[layer] = float(scale_T.mean())
    return scales


def _first_tokens(corpus: Sequence[Callable[[], TokenShard]]) -> tuple[np.ndarray, ...]:
    """Return ids and positions of the first SAMPLE_TOKENS tokens, wherever shards are cut."""
    parts, n_tokens = [], 0
    for read in corpus:
        shard = read()
        parts.append((shard.token_ids_SN.ravel(), shard.positions_SN.ravel()))
        n_tokens += parts[-1][0].size
        if n_tokens >= SAMPLE_TOKENS:
            break
    return tuple(np.concatenate(some)[:SAMPLE_TOKENS] for some in zip(*parts, strict=True))


def _floats(values: torch.Tensor) -> np.ndarray:
    """Return a tensor as float64 in numpy."""
    return torch.as_tensor(values).detach().to("cpu", torch.float64).numpy()
