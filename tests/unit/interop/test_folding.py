"""A folded dictionary does on raw activations what the dictionary does."""

import pytest
import torch
from made_dictionaries import D_DICT, D_MODEL, GATES, KINDS, close, dense, made, output, raw

from deepseemoe.interop.folding import fold, inclusive, strict


def activations(block, x_TLD):
    """Return what is active in a block by its own numbers, (T, F)."""
    x_TR = x_TLD[:, block.reads.start : block.reads.stop].flatten(1)
    z_TF = x_TR @ block.encoder_FR.t() + block.encoder_bias_F
    if block.k is None:
        return z_TF * ((z_TF > 0) & (z_TF >= block.threshold_F))
    chosen = (z_TF.relu() * block.weight_F).topk(block.k, dim=1).indices
    return z_TF.relu() * torch.zeros_like(z_TF).scatter_(1, chosen, 1.0)


def reconstruction(dictionary, folded, blocks, x_TLD):
    """Return the sum of what all blocks write, by slot."""
    output_TSD = folded.decoder_bias_SD.repeat(len(x_TLD), 1, 1)
    for block in blocks:
        span = slice(block.writes.start, block.writes.stop)
        written_TW = activations(block, x_TLD) @ block.decoder_FW
        output_TSD[:, span] += written_TW.view(len(x_TLD), -1, D_MODEL)
    for layer, skip_DD in enumerate(folded.skips):
        slot = range(dictionary.n_slots)[dictionary.outputs][layer]
        output_TSD[:, slot] += x_TLD[:, layer] @ skip_DD.t()
    return output_TSD


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_folded_weights_do_what_the_dictionary_does(kind, gate, seed):
    dictionary = made(kind, gate, seed=seed)
    x = raw(dictionary, seed=seed + 100)
    folded = fold(dictionary)
    found = torch.cat([activations(block, x) for block in folded.blocks], dim=1)
    expected = dense(dictionary, x)
    assert 1 < float((expected > 0).sum(1).float().mean()) < D_DICT
    close(found, expected)
    close(reconstruction(dictionary, folded, folded.blocks, x), output(dictionary, x))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("kind", KINDS)
def test_scores_for_activations_change_no_output(kind, gate):
    dictionary = made(kind, gate)
    x, folded = raw(dictionary), fold(dictionary)
    scored = [block.scored() for block in folded.blocks]
    close(reconstruction(dictionary, folded, scored, x), output(dictionary, x))


def test_scored_decoders_of_one_layer_have_the_norm_one():
    block = fold(made("sae")).blocks[0].scored()
    norms = torch.linalg.vector_norm(block.decoder_FW, dim=1)
    lives = torch.arange(D_DICT) != 3
    torch.testing.assert_close(norms[lives], torch.ones(D_DICT - 1))


def test_batch_topk_has_one_threshold_where_activations_are_scores():
    threshold_F = fold(made("sae")).blocks[0].scored().threshold_F
    lives = torch.arange(D_DICT) != 3
    assert float(threshold_F[lives].std() / threshold_F[lives].mean()) < 1e-6


def test_thresholds_without_and_with_equality_are_neighbours():
    threshold = torch.tensor([0.0, 1e-3, 0.7, 3.0])
    assert torch.equal(inclusive(strict(threshold)), threshold)
    above = torch.nextafter(threshold, torch.full_like(threshold, torch.inf))
    for z in (threshold, above):
        assert torch.equal((z > strict(threshold)) & (z > 0), (z >= threshold) & (z > 0))
        assert torch.equal((z > threshold) & (z > 0), (z >= inclusive(threshold)) & (z > 0))


def test_padding_adds_features_that_are_never_active():
    dictionary = made("transcoder")
    block, x = fold(dictionary).blocks[0], raw(dictionary)
    wide = block.padded(D_DICT + 4)
    assert torch.equal(activations(wide, x)[:, :D_DICT], activations(block, x))
    assert not activations(wide, x)[:, D_DICT:].any()
