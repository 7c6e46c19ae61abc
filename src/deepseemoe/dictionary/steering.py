"""Features ablated, scaled or added while the model runs, at one layer or at all of a window.

A change is sparse, `Codes` whose values say by how much each feature's activation changes at each
token: -z ablates it, (s - 1) z scales it by s, an amount adds to it. At each site that the
dictionary writes, what passes changes by the sum over features of change * d_{f,l}, raw, with the
dictionary's scales undone:

    crosscoder   resid_post/l   every layer of the window
    transcoder   moe_out/l      source layer and, where it is cross-layer, the later ones

The residual stream carries on what an earlier layer lost. So at the second layer of a crosscoder's
window only what is different there is changed, d_{f,l} - d_{f,l'} with l' the layer changed before.
Each layer's whole d_{f,l} again would take away a feature that L layers share L times over.
Transcoders write each block's output, which nothing carries to the next.

Axes: T tokens, D d_model, F features, n changed features, S slots of the window.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from deepseemoe.dictionary.codes import Codes, offsets_of, weighted_sums
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.model.tap import Edit
from deepseemoe.names import layer_name


def ablated(dictionary: Dictionary, codes: Codes, features: Iterable[int]) -> Codes:
    """Return the change that brings some features to z = 0, where they are active.

    Raises ValueError for features that the dictionary does not have.
    """
    return scaled(dictionary, codes, features, factor=0.0)


def scaled(
    dictionary: Dictionary, codes: Codes, features: Iterable[int], *, factor: float
) -> Codes:
    """Return the change that multiplies the activations of some features by `factor`.

    Raises ValueError for features that the dictionary does not have.
    """
    wanted = _checked(dictionary, features)
    is_wanted, n_tokens = np.isin(codes.features, wanted), len(codes.offsets) - 1
    tokens = np.repeat(np.arange(n_tokens), np.diff(codes.offsets))[is_wanted]
    values = (factor - 1) * codes.values[is_wanted]
    return _codes(tokens, codes.features[is_wanted], values, n_tokens=n_tokens)


def added(
    dictionary: Dictionary, amounts: Mapping[int, float | ArrayLike], *, n_tokens: int
) -> Codes:
    """Return the change that adds to features' activations: one amount for all tokens, or (T,).

    An amount is in units of z: what is written moves by amount * d_f. `{f: -z_T}` ablates a feature
    whose activations are at hand. Raises ValueError for features that the dictionary does not
    have, and where amounts are not one for each token, or not finite.
    """
    features = _checked(dictionary, amounts)
    change_nT = np.zeros((len(features), n_tokens), np.float32)
    for row_T, (feature, amount) in zip(change_nT, amounts.items(), strict=True):
        row_T[:] = _amounts(feature, amount, n_tokens)
    tokens, places = np.nonzero(change_nT.T)
    return _codes(tokens, features[places], change_nT[places, tokens], n_tokens=n_tokens)


def edits_of(
    dictionary: Dictionary,
    change: Codes,
    *,
    layers: Iterable[int] | None = None,
    carried: bool = True,
) -> dict[str, Edit]:
    """Return edits for `MoeModel.edit` that change features of one batch of T tokens.

    `layers` are those of the model to change at, all of the window where not given. Not `carried`,
    each layer of a crosscoder changes by the whole of d_{f,l}, whatever the layers before did.
    Holds the decoders of the changed features, n x S x D. Raises ValueError for features that the
    dictionary does not have, for layers outside its window, and for layers given that none of the
    features writes; an edit raises it where a forward pass has another number of tokens.
    """
    features, rows = np.unique(change.features, return_inverse=True)
    decoder_nSD = decoder_rows(dictionary, features)[:, dictionary.outputs]
    places = _places(dictionary, layers)
    if layers is not None:
        _check_written(dictionary, decoder_nSD, places)
    is_carried = carried and dictionary.kind == "crosscoder"
    edits, before_nD = {}, torch.zeros(())
    for place in places:
        row_nD = decoder_nSD[:, place]
        difference_nD = row_nD - before_nD if is_carried else row_nD
        before_nD = row_nD
        site = dictionary.written_names[dictionary.outputs][place]
        edits[site] = _changing(site, difference_nD.contiguous(), change, rows)
    return edits


def decoder_rows(dictionary: Dictionary, features: Iterable[int]) -> Tensor:
    """Return what a unit of some features adds to each slot, raw, (n, S, D).

    Rows of `Dictionary.decoder_FSD`, without making the whole of it. Raises ValueError for features
    that the dictionary does not have.
    """
    d_model, weights = dictionary.d_model, dictionary.weights
    wanted = torch.as_tensor(_checked(dictionary, features))
    rows_nSD = weights.decoder_bias.new_zeros(len(wanted), dictionary.n_slots, d_model)
    for part, decoder_FW in zip(dictionary.parts, weights.decoders, strict=True):
        mine = torch.nonzero((wanted >= part.first) & (wanted < part.stop)).flatten()
        rows = decoder_FW[(wanted[mine] - part.first).to(decoder_FW.device)]
        slots = slice(part.writes.start, part.writes.stop)
        rows_nSD[mine.to(rows.device), slots] = rows.unflatten(1, (len(part.writes), d_model))
    return rows_nSD / dictionary.writing.scale_L[:, None]


def _changing(site: str, decoder_nD: Tensor, change: Codes, rows: np.ndarray) -> Edit:
    """Return an edit that adds the change times decoder rows."""
    offsets, rows, values = (
        torch.as_tensor(part, device=decoder_nD.device)
        for part in (change.offsets, rows, change.values)
    )

    def add(value_TD: Tensor) -> Tensor:
        n_tokens = len(offsets) - 1
        if len(value_TD) != n_tokens:
            raise ValueError(
                f"{site}: the change of features is of {n_tokens} tokens, and the forward pass has "
                f"{len(value_TD)}; encode and change the batch that runs"
            )
        sums_TD = weighted_sums(decoder_nD, rows, offsets, values)
        return (value_TD + sums_TD.to(value_TD.device)).to(value_TD.dtype)

    return add


def _codes(tokens: np.ndarray, features: np.ndarray, values: np.ndarray, *, n_tokens: int) -> Codes:
    offsets = offsets_of(torch.as_tensor(tokens), n_tokens).numpy()
    return Codes(offsets, features, values.astype(np.float32))


def _amounts(feature: int, amount: float | ArrayLike, n_tokens: int) -> np.ndarray:
    """Return what is added to a feature at each token, (T,)."""
    found = np.asarray(amount, dtype=np.float32)
    if found.shape not in ((), (n_tokens,)):
        raise ValueError(
            f"feature {feature}: amounts have shape {found.shape}; expected one number, or "
            f"({n_tokens},), one for each token"
        )
    if not np.isfinite(found).all():
        raise ValueError(f"feature {feature}: an amount is not finite")
    return np.broadcast_to(found, n_tokens)


def _checked(dictionary: Dictionary, features: Iterable[int]) -> np.ndarray:
    """Return features as an array; raise ValueError where the dictionary does not have one."""
    asked = np.asarray(list(features), dtype=np.int64)
    strange = asked[(asked < 0) | (asked >= dictionary.d_dict)]
    if len(strange):
        raise ValueError(
            f"the {dictionary.kind} on {dictionary.window} has no feature "
            f"{', '.join(map(str, strange))}; its last is {dictionary.d_dict - 1}"
        )
    return asked


def _places(dictionary: Dictionary, layers: Iterable[int] | None) -> list[int]:
    """Return the places in the window of the layers to change at, rising."""
    window = dictionary.window
    asked = window.layers if layers is None else tuple(layers)
    strange = sorted(set(asked).difference(window.layers))
    if strange or not asked:
        names = ", ".join(map(layer_name, strange)) or "none"
        raise ValueError(
            f"features of the {dictionary.kind} on {window} can be changed at its layers, "
            f"and {names} was asked for"
        )
    return sorted({layer - window.first for layer in asked})


def _check_written(dictionary: Dictionary, decoder_nSD: Tensor, places: Sequence[int]) -> None:
    names = [
        layer_name(dictionary.window.first + place)
        for place in places
        if len(decoder_nSD) and not decoder_nSD[:, place].any()
    ]
    if names:
        raise ValueError(
            f"none of the {len(decoder_nSD)} features to change writes {', '.join(names)}: a "
            "transcoder's feature writes its source layer and, where cross-layer, later ones"
        )
