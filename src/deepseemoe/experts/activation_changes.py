"""How much of a feature's activation an expert brings: what z loses where its output is taken away.

Routing stays as it was. What an expert adds to the residual stream is subtracted from all that
features read further down, and the encoder is applied to the difference; z is linear before the
gate, so that is exact, and experts' parts can be compared with z itself. Blocks and attention in
between are frozen: this is the path along the residual stream.

    crosscoder                 resid_post of this layer and of later ones of the window
    transcoder of moe_in       through the norm before a later block, by the norm itself
    transcoder of resid_mid    resid_mid of a later layer
    transcoder of attn_out     no such path

Axes: T tokens, I active entries, F features, L layers of the window, K experts of a token,
D d_model.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.experts.contributions import entries_of, project
from deepseemoe.model.adapter import MoeModel


class Reading(NamedTuple):
    """One place where features read what a block has written, with their encoders there (F, D).

    `norm_layer` is the layer whose norm before the block comes first; None where the residual
    stream itself is read. Encoders are 0 for features that read nothing there.
    """

    norm_layer: int | None
    encoder_FD: Tensor


def readings_of(
    dictionary: Dictionary, layer: int, features: np.ndarray, device: torch.device
) -> tuple[Reading, ...]:
    """Return all places where `features` read what the block of `layer` has written."""
    if dictionary.reads == "attn_out":
        return ()
    is_later = 0 if dictionary.kind == "crosscoder" else 1
    later = [n for n in dictionary.window.layers if n >= layer + is_later]
    encoder_FLD = torch.as_tensor(dictionary.encoder_FLD)[torch.from_numpy(features)].float()
    places = [n - dictionary.window.first for n in later]
    if dictionary.reads == "moe_in":
        return tuple(
            Reading(n, encoder_FLD[:, place].to(device))
            for n, place in zip(later, places, strict=True)
        )
    return (Reading(None, encoder_FLD[:, places].sum(1).to(device)),) if places else ()


def reads_downstream(readings: Sequence[Reading], n_features: int) -> np.ndarray:
    """Return which features (F,) read what the block has written."""
    found_F = np.zeros(n_features, bool)
    for reading in readings:
        found_F |= reading.encoder_FD.any(1).cpu().numpy()
    return found_F


def activation_changes(
    model: MoeModel,
    readings: Sequence[Reading],
    written_TKD: Tensor,
    resid_mid: Mapping[int, Tensor],
    features_TF: sp.csr_array,
) -> np.ndarray:
    """Return what each active entry owes to each expert of its token (I, K), in units of z.

    `written_TKD` is what the experts add to the residual stream, `resid_mid` the residuals (T, D)
    before the norms that the readings name.
    """
    token_I, feature_I = entries_of(features_TF)
    changes_IK = np.zeros((token_I.size, written_TKD.shape[1]), np.float32)
    for layer, encoder_FD in readings:
        mine = encoder_FD.any(1).cpu().numpy()[feature_I]
        if mine.any():
            lost_TKD = written_TKD
            if layer is not None:
                lost_TKD = _lost_after_norm(model, layer, written_TKD, resid_mid[layer])
            changes_IK[mine] += project(token_I[mine], feature_I[mine], lost_TKD, encoder_FD)
    return changes_IK


def written_by_experts(
    model: MoeModel, layer: int, outputs_TKD: Tensor, block_TD: Tensor | None
) -> Tensor:
    """Return what each expert of a token adds to the residual stream (T, K, D).

    Its weighted output; in families with a norm after the block, what the normed sum of the block,
    `block_TD` before the norm, has more than without it.
    """
    if block_TD is None:
        return outputs_TKD
    rest_TKD = block_TD.float()[:, None] - outputs_TKD
    whole_TD, without_TKD = (model.block_output(layer, x) for x in (block_TD.float(), rest_TKD))
    return whole_TD[:, None] - without_TKD


def _lost_after_norm(
    model: MoeModel, layer: int, written_TKD: Tensor, resid_mid_TD: Tensor
) -> Tensor:
    """Return what moe_in of a later layer loses with each expert's output (T, K, D)."""
    x_TD = resid_mid_TD.float()
    without_TKD = model.router_input(layer, x_TD[:, None] - written_TKD)
    return model.router_input(layer, x_TD)[:, None] - without_TKD
