"""From trained weights to a dictionary that encodes: its gate, and how many features it passes."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from deepseemoe.activations.store import ActivationStore
from deepseemoe.dictionary.batches import valid_blocks
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import Gate, PerFeature, TopK, Weighted
from deepseemoe.dictionary.threshold import calibrate, mean_l0

logger = logging.getLogger(__name__)


def folded(dictionary: Dictionary) -> Dictionary:
    """Return the dictionary with its decoder bias, taken from what it reads, in its encoder's."""
    weights = dictionary.weights
    shift_F = weights.encoders[0] @ weights.decoder_bias
    return replace(
        dictionary, weights=weights._replace(encoder_bias=weights.encoder_bias - shift_F)
    )


def gated(dictionary: Dictionary, stores: Sequence[ActivationStore], *, guess: float) -> Dictionary:
    """Return the dictionary with its gate at inference, and how many features it lets through.

    BatchTopK's threshold is set so that they are k a token on `stores`.
    """

    def blocks() -> Iterator[Tensor]:
        for store in stores:
            for block in valid_blocks(store, dictionary.read_names):
                yield torch.from_numpy(block).to(dictionary.norm_F.device)

    if dictionary.activation == "batch_topk":
        found = calibrate(dictionary, blocks, guess=guess)
        logger.info("threshold %.4g: L0 %.2f on select, k %d", *found, dictionary.k)
        return replace(dictionary, gate=Weighted(found.threshold), l0=found.l0)
    trained = replace(dictionary, gate=_learned_gate(dictionary))
    l0 = mean_l0(trained, blocks())
    logger.info("L0 %.2f on select, k %d", l0, dictionary.k)
    return replace(trained, l0=l0)


def _learned_gate(dictionary: Dictionary) -> Gate:
    """Return the gate of an activation function that needs no calibration."""
    if dictionary.activation == "topk":
        return TopK(dictionary.k)
    if dictionary.activation == "jumprelu":
        return PerFeature(dictionary.weights.thresholds.exp())
    return Weighted(0.0)
