"""In dictionary_learning's recipe our trainer goes where its `BatchTopKTrainer` goes.

Their loss is the sum over dimensions and ours the mean, so the weight of AuxK, the largest gradient
norm and Adam's epsilon are 1 / d_in of theirs. What they do and we do not, or otherwise, is set to
be without effect here: their warm-up starts at a rate of 0, so there is none; AuxK takes their
features after relu and ours before it, so those that are dead here are above 0; and ours takes a
part of the tokens of batches larger than this one.
"""

import pytest
import torch
from contestant import why_missing
from peers import DictionaryLearning

from deepseemoe.config.dictionary import DictionaryConfig
from deepseemoe.dictionary.batches import Batch
from deepseemoe.dictionary.layout import parts_of
from deepseemoe.dictionary.recipe import Recipe
from deepseemoe.dictionary.trainer import Trainer
from deepseemoe.dictionary.weights import Weights

if REASON := why_missing(DictionaryLearning):
    pytest.skip(f"{DictionaryLearning.NAME}: {REASON}; run `make peers`", allow_module_level=True)

# Warnings of the peers' code are not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")

N_STEPS, D_IN, D_DICT, K, BATCH = 50, 48, 384, 8, 256
RATE, DECAY_START = 1e-3, 40


def batches():
    rng = torch.Generator().manual_seed(7)
    directions = torch.randn(300, D_IN, generator=rng)
    codes = torch.rand(N_STEPS, BATCH, 300, generator=rng)
    return list((codes * (codes > 0.97)) @ directions + 0.5)


def theirs(start_C):
    """Return their trainer, its bias at the median as after its own first step."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    trainer = BatchTopKTrainer(
        steps=N_STEPS,
        activation_dim=D_IN,
        dict_size=D_DICT,
        k=K,
        layer=0,
        lm_name="",
        lr=RATE,
        warmup_steps=0,
        decay_start=DECAY_START,
        seed=3,
        device="cpu",
    )
    trainer.ae.b_dec.data = start_C.clone()
    return trainer


def ours(sae):
    """Return our trainer from the weights that theirs starts from."""
    weights = Weights(
        (sae.encoder.weight.detach().clone().contiguous(),),  # theirs is a transposed view
        sae.encoder.bias.detach().clone(),
        (sae.decoder.weight.detach().t().clone().contiguous(),),
        sae.b_dec.detach().clone(),
    )
    config = DictionaryConfig(
        d_dict=D_DICT,
        k=K,
        n_tokens=N_STEPS * BATCH,
        batch_tokens=BATCH,
        learning_rate=RATE,
        warmup_fraction=0.0,
        max_grad_norm=1 / D_IN,
        auxk_weight=1 / 32 / D_IN,
        dead_tokens=10_000_000,
        decoder_norm="unit",
        pre_bias=True,
    )
    recipe = Recipe.of(config, d_model=D_IN)._replace(
        decay_steps=N_STEPS - DECAY_START - 1, adam_epsilon=1e-8 / D_IN
    )
    parts = parts_of("crosscoder", n_layers=1, d_dict=D_DICT)
    return Trainer(recipe, parts, weights, d_model=D_IN)


def trained(*, n_asleep=0):
    """Return both losses of each step, in their units, and both trainers.

    Features that are asleep have long been silent, and stay so: they are above 0, so that relu
    changes nothing, but far below what is selected.
    """
    data = batches()
    them = theirs(start_C=theirs(data[0][0]).geometric_median(data[0]))
    them.ae.encoder.weight.data[:n_asleep] *= 0.02
    them.ae.encoder.bias.data[:n_asleep] = 0.5
    us = ours(them.ae)
    them.num_tokens_since_fired[:n_asleep] = us.silent_F[:n_asleep] = 10_000_000
    losses = []
    for step, x_TC in enumerate(data):
        report = us.advance(Batch(x_TC, x_TC))
        if step == 0:  # their first step would set the bias once more, to the same median
            assert torch.equal(them.geometric_median(x_TC), them.ae.b_dec.data)
        losses.append((report.loss * D_IN, them.update(step, x_TC)))
        assert them.dead_features == n_asleep
    return torch.tensor(losses, dtype=torch.float64), us, them


@pytest.mark.parametrize("n_asleep", [0, 96])
def test_losses_of_fifty_steps_are_those_of_dictionary_learning(n_asleep):
    losses, us, _ = trained(n_asleep=n_asleep)
    assert losses[-1, 0] < 0.8 * losses[0, 0]
    assert int(us.is_dead_F.sum()) == n_asleep
    torch.testing.assert_close(losses[:, 0], losses[:, 1], rtol=1e-5, atol=0)


def test_fifty_steps_end_in_the_weights_of_dictionary_learning():
    _, us, them = trained()
    (encoder_FC,), (decoder_FC,) = us.weights.encoders, us.weights.decoders
    for found, expected in (
        (encoder_FC, them.ae.encoder.weight),
        (decoder_FC, them.ae.decoder.weight.t()),
        (us.weights.encoder_bias, them.ae.encoder.bias),
        (us.weights.decoder_bias, them.ae.b_dec),
    ):
        apart = (found - expected).norm() / (RATE * N_STEPS * expected.numel() ** 0.5)
        assert apart < 1e-3  # of what 50 steps of Adam can move


def test_auxk_moves_sleeping_features_as_in_dictionary_learning():
    _, us, them = trained(n_asleep=96)
    found, expected = us.weights.encoders[0][:96], them.ae.encoder.weight.detach()[:96]
    start = 0.02 * theirs(batches()[0][0]).ae.encoder.weight.detach()[:96]
    assert (found - start).norm() > 0.1 * RATE * N_STEPS * found.numel() ** 0.5
    assert (found - expected).norm() < 1e-3 * (found - start).norm()
