"""A dictionary for raw activations: normalisation folded into its weights, gate into thresholds.

With x = (raw - mean) * scale, and what is written undone likewise,

    encoder_raw   = encoder * scale                 bias_raw = bias - <encoder_raw, mean>
    decoder_raw   = decoder / scale'                decoder_bias_raw = bias' / scale' + mean'
    skip_raw      = skip * scale / scale'           (its share of the means is in the decoder bias)
    threshold_f   = threshold / w_f                 w_f: sum over layers of the decoder's norms

so z, and which features are active, stay what `Dictionary.encode` says. Other tools know nothing of
w: where they rank or threshold activations themselves, `scored` makes the activation the score:
encoder times c_f, decoder over c_f, with c_f in proportion to w_f. Outputs stay the same.

Axes: F features of a block, L layers, S slots, D d_model, R columns read, W columns written.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import PerFeature, TopK, Weighted
from deepseemoe.dictionary.layout import Part
from deepseemoe.dictionary.topk import shares_of

ROWS = 4096
"""Features whose bias is folded at once, in float64."""


class Block(NamedTuple):
    """Features that read the same layers and write the same slots, for raw activations, float32."""

    reads: range
    """Layers, counted from the first of the window."""
    writes: range
    """Slots, as `Dictionary` counts them."""
    encoder_FR: Tensor
    encoder_bias_F: Tensor
    decoder_FW: Tensor
    threshold_F: Tensor
    """A feature is active where z > 0 and z >= threshold; 0 where k decides."""
    weight_F: Tensor
    """c: what makes a score of an activation."""
    k: int | None
    """Features of each token that are active, the highest c * z; None where thresholds decide."""

    def scored(self) -> "Block":
        """Return the block with activations that are scores, and the same outputs."""
        return self._replace(
            encoder_FR=self.encoder_FR * self.weight_F[:, None],
            encoder_bias_F=self.encoder_bias_F * self.weight_F,
            decoder_FW=self.decoder_FW / self.weight_F[:, None],
            threshold_F=self.threshold_F * self.weight_F,
            weight_F=torch.ones_like(self.weight_F),
        )

    def with_input_bias(self, bias_R: Tensor) -> "Block":
        """Return the block for inputs from which `bias_R` was taken."""
        return self._replace(encoder_bias_F=shifted(self.encoder_bias_F, self.encoder_FR, bias_R))

    def padded(self, n_features: int) -> "Block":
        """Return the block with features that are never active added at its end."""
        more = n_features - len(self.encoder_bias_F)
        return self._replace(
            **{
                name: torch.cat([tensor, tensor.new_full((more, *tensor.shape[1:]), blank)])
                for name, tensor in self._asdict().items()
                for blank in [float(name == "weight_F")]
                if isinstance(tensor, Tensor)
            }
        )


class Folded(NamedTuple):
    """A dictionary for raw activations: one block a source layer, or one of all layers."""

    blocks: tuple[Block, ...]
    decoder_bias_SD: Tensor
    skips: tuple[Tensor, ...]
    """One (D, D) a layer, output = skip @ raw; empty without skip connections."""


def fold(dictionary: Dictionary) -> Folded:
    """Return the dictionary for raw activations, on the CPU."""
    dictionary = dictionary.to("cpu")
    skips = _skips(dictionary)
    bias_SD = dictionary.decoder_bias_SD.double().clone()
    for layer, skip_DD in enumerate(skips):
        slot = range(dictionary.n_slots)[dictionary.outputs][layer]
        bias_SD[slot] -= skip_DD @ dictionary.reading.mean_LD[layer].double()
    blocks = tuple(_block(dictionary, index) for index in range(len(dictionary.parts)))
    return Folded(blocks, bias_SD.float(), tuple(skip.float() for skip in skips))


def strict(threshold: Tensor) -> Tensor:
    """Return thresholds t' so that z > t' wherever z >= t: peers compare without equality."""
    below = torch.nextafter(threshold, torch.full_like(threshold, -torch.inf))
    return torch.where(threshold > 0, below, threshold)


def inclusive(threshold: Tensor) -> Tensor:
    """Return thresholds t' so that z >= t' wherever z > t, for t that are 0 or more."""
    above = torch.nextafter(threshold, torch.full_like(threshold, torch.inf))
    return torch.where(threshold > 0, above, threshold.clamp_min(0.0))


def _block(dictionary: Dictionary, index: int) -> Block:
    part, weights = dictionary.parts[index], dictionary.weights
    span, d_model = slice(part.first, part.stop), dictionary.d_model
    reading, writing = dictionary.reading, dictionary.writing
    reads, writes = (slice(r.start, r.stop) for r in (part.reads, part.writes))
    encoder_FR = weights.encoders[index] * reading.scale_L[reads].repeat_interleave(d_model)
    mean_R = reading.mean_LD[reads].flatten()
    block = Block(
        part.reads,
        part.writes,
        encoder_FR,
        shifted(weights.encoder_bias[span], encoder_FR, -mean_R),
        weights.decoders[index] / writing.scale_L[writes].repeat_interleave(d_model),
        *_gate(dictionary, part),
    )
    return _without_silent(block, dictionary, part)


def _gate(dictionary: Dictionary, part: Part) -> tuple[Tensor, Tensor, int | None]:
    """Return thresholds, weights and k of the features of a part.

    Weights are scaled so that a decoder of one slot gets the norm 1 with them, as peers like it.
    """
    norm_F = dictionary.norm_F[part.first : part.stop]
    scale_S = dictionary.writing.scale_L[part.writes.start : part.writes.stop]
    weight_F = torch.where(norm_F > 0, norm_F / scale_S.double().log().mean().exp().float(), 1.0)
    none_F = torch.zeros_like(norm_F)
    match dictionary.gate:
        case PerFeature(threshold_F):
            return threshold_F[part.first : part.stop].clamp_min(0.0), weight_F, None
        case TopK() as gate:
            ranked_F = weight_F if gate.weighted else torch.ones_like(weight_F)
            return none_F, ranked_F, shares_of(gate.k, dictionary.parts)[part.reads]
        case Weighted(threshold):
            lowest_F = torch.where(norm_F > 0, threshold / norm_F, 0.0)
            return lowest_F, weight_F, None


def _without_silent(block: Block, dictionary: Dictionary, part: Part) -> Block:
    """Return the block with encoders of 0 where a score is always 0, so that nothing is active."""
    if isinstance(dictionary.gate, PerFeature):
        return block
    if isinstance(dictionary.gate, TopK) and not dictionary.gate.weighted:
        return block
    lives_F = dictionary.norm_F[part.first : part.stop] > 0
    return block._replace(
        encoder_FR=block.encoder_FR * lives_F[:, None],
        encoder_bias_F=block.encoder_bias_F * lives_F,
    )


def _skips(dictionary: Dictionary) -> list[Tensor]:
    """Return the skip connections for raw activations, float64."""
    read_L = dictionary.reading.scale_L.double()
    written_L = dictionary.writing.scale_L[dictionary.outputs].double()
    return [
        skip.double() * (read / written)
        for skip, read, written in zip(dictionary.weights.skips, read_L, written_L, strict=False)
    ]


def shifted(bias_F: Tensor, encoder_FR: Tensor, shift_R: Tensor) -> Tensor:
    """Return bias + encoder @ shift, summed in float64."""
    shift_R = shift_R.double()
    moved = torch.cat([rows.double() @ shift_R for rows in encoder_FR.split(ROWS)])
    return (bias_F.double() + moved).float()
