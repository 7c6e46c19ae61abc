"""Reconstructions in place of activations while the model runs, at all layers at once.

A crosscoder's come from a clean run: it encodes the recorded window, and each layer's
reconstruction replaces `resid_post` there. A transcoder's are made inside the run, layer by layer:
what it encodes at a layer is what the layers before, already replaced, have led to; and `moe_out`
is replaced by what features of this and earlier source layers write, plus the bias. Rows that are
not valid (position 0, outlying norms) stay as they are: no dictionary was trained on them.

Axes: T tokens, D d_model, C columns of the window.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from deepseemoe.dictionary.decoding import skipped
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.model.taps import Edit


def crosscoder_edits(
    dictionary: Dictionary, recorded: Mapping[str, Tensor], is_valid_T: Tensor
) -> dict[str, Edit]:
    """Return edits that put reconstructions of a recorded clean run at every layer."""
    names = dictionary.read_names
    x_TLD = torch.stack([recorded[name][is_valid_T].float() for name in names], dim=1)
    y_TLD = dictionary.reconstruct(dictionary.entries(x_TLD), n_tokens=len(x_TLD))
    return {name: _putting(y_TLD[:, i], is_valid_T) for i, name in enumerate(names)}


def transcoder_edits(dictionary: Dictionary, is_valid_T: Tensor) -> dict[str, Edit]:
    """Return edits that encode each layer's input as it comes, and replace its output."""
    run = _TranscoderRun(dictionary, is_valid_T)
    edits: dict[str, Edit] = {}
    for index in range(dictionary.n_layers):
        edits[dictionary.read_names[index]] = run.reader(index)
        edits[_output_names(dictionary)[index]] = run.writer(index)
    return edits


def zero_edits(dictionary: Dictionary, is_valid_T: Tensor) -> dict[str, Edit]:
    """Return edits that put zeros wherever the dictionary writes."""
    zero = torch.zeros((), device=is_valid_T.device)
    return dict.fromkeys(_output_names(dictionary), _putting(zero, is_valid_T))


def _output_names(dictionary: Dictionary) -> tuple[str, ...]:
    """Return the sites that are replaced: what is written, but not inputs that are too."""
    return dictionary.written_names[dictionary.outputs]


class _TranscoderRun:
    """What the features of one forward pass have written so far, in normalised units."""

    def __init__(self, dictionary: Dictionary, is_valid_T: Tensor) -> None:
        self._dictionary, self._is_valid_T = dictionary, is_valid_T
        self._written_TC = torch.zeros(())

    def reader(self, index: int) -> Edit:
        """Return an edit that changes nothing, and takes in what a layer's features write."""

        def read(value_TD: Tensor) -> Tensor:
            x_TLD = value_TD[self._is_valid_T].float()[:, None]
            entries = self._dictionary.entries(x_TLD, layer=index)
            added_TC = self._dictionary.contribution(entries, n_tokens=len(x_TLD))
            if self._dictionary.weights.skips:
                x_TD = self._dictionary.reading.of_layer(index).apply(x_TLD)[:, 0]
                added_TC += skipped(self._dictionary.weights, x_TD, layer=index)
            self._written_TC = added_TC if index == 0 else self._written_TC + added_TC
            return value_TD

        return read

    def writer(self, index: int) -> Edit:
        """Return an edit that puts the reconstruction of a layer's output."""
        slot = range(self._dictionary.n_slots)[self._dictionary.outputs][index]
        columns = slice(slot * self._dictionary.d_model, (slot + 1) * self._dictionary.d_model)

        def write(value_TD: Tensor) -> Tensor:
            bias_W = self._dictionary.weights.decoder_bias[columns]
            normalised_TLD = (self._written_TC[:, columns] + bias_W)[:, None]
            raw_TLD = self._dictionary.writing.of_layer(slot).undo(normalised_TLD)
            return _putting(raw_TLD[:, 0], self._is_valid_T)(value_TD)

        return write


def _putting(rows_TD: Tensor, is_valid_T: Tensor) -> Edit:
    """Return an edit that puts `rows_TD` (of the valid rows, or one number) at the valid rows."""

    def put(value_TD: Tensor) -> Tensor:
        new_TD = value_TD.clone()
        new_TD[is_valid_T] = rows_TD.to(new_TD.dtype)
        return new_TD

    return put
