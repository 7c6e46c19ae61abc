"""The sparse training step has the gradients of the plain dense formula."""

import pytest
import torch
from dense_reference import dense_loss, jobs_for, random_weights, whole

from deepseemoe.dictionary.auxk import AuxK
from deepseemoe.dictionary.batch_topk import BatchTopK
from deepseemoe.dictionary.gradients import gradient_of
from deepseemoe.dictionary.weights import Weights

N_TOKENS, D_MODEL, K = 40, 12, 5


def gradients(weights, jobs, inputs, targets, dead=None):
    """Return the losses of BatchTopK, its gradient in whole tensors, and its entries."""
    activation, norm_F = BatchTopK(K), weights.norm_F(D_MODEL)
    selection = activation.select(weights, jobs, norm_F)
    options = {"inputs_TC": inputs, "d_model": D_MODEL, "norm_F": norm_F, "dead": dead}
    losses, gradient = gradient_of(weights, jobs, targets, selection, activation, **options)
    return losses, Weights(*rebuilt(whole(gradient), len(jobs))), selection.entries


def rebuilt(tensors, n_parts):
    """Return the fields of `Weights` from its tensors."""
    encoders, (bias, *decoders), decoder_bias = (
        tensors[:n_parts],
        tensors[n_parts : 2 * n_parts + 1],
        tensors[-1],
    )
    return tuple(encoders), bias, tuple(decoders), decoder_bias


def step(kind, n_layers, *, n_dead, k_aux, d_dict=70):
    """Return losses and gradients of the sparse step, and loss and gradients of the dense one."""
    parts, weights = random_weights(kind, n_layers=n_layers, d_model=D_MODEL, d_dict=d_dict)
    rng = torch.Generator().manual_seed(1)
    shape = (N_TOKENS, n_layers * D_MODEL)
    x = torch.randn(shape, generator=rng, dtype=torch.float64)
    y = x if kind == "crosscoder" else torch.randn(shape, generator=rng, dtype=torch.float64)
    is_dead = torch.zeros(d_dict, dtype=torch.bool)
    is_dead[torch.randperm(d_dict, generator=rng)[:n_dead]] = True
    auxk = AuxK(is_dead, k_aux, 1 / 32)

    jobs = jobs_for(parts, x, D_MODEL)
    losses, grads, _ = gradients(weights, jobs, x, y, auxk)

    leaves = [w.clone().requires_grad_() for w in weights.tensors()]
    loss = dense_loss(
        Weights(*rebuilt(leaves, len(parts))), parts, x, y, d_model=D_MODEL, k=K, auxk=auxk
    )
    loss.backward()
    return losses, [*grads.tensors()], float(loss.detach()), [leaf.grad for leaf in leaves]


@pytest.mark.parametrize(
    ("kind", "n_layers"),
    [("crosscoder", 1), ("crosscoder", 3), ("transcoder", 1), ("transcoder", 3)],
)
@pytest.mark.parametrize(
    ("n_dead", "k_aux"), [(0, 6), (20, 6), (4, 6)], ids=["none dead", "many dead", "few dead"]
)
def test_gradients_equal_those_of_dense_autograd(kind, n_layers, n_dead, k_aux):
    losses, grads, loss, expected = step(kind, n_layers, n_dead=n_dead, k_aux=k_aux)
    assert losses.total == pytest.approx(loss, rel=1e-12)
    assert (losses.auxk > 0) == (n_dead > 0)
    for grad, reference in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, reference, rtol=1e-11, atol=1e-15)


def test_the_gradient_check_sees_one_aux_feature_more():
    _, _, loss, expected = step("crosscoder", 2, n_dead=20, k_aux=6)
    other_losses, other, _, _ = step("crosscoder", 2, n_dead=20, k_aux=7)
    assert abs(other_losses.total - loss) > 1e-6
    assert max(float((a - b).abs().max()) for a, b in zip(other, expected, strict=True)) > 1e-6


def test_auxk_moves_the_encoder_of_a_feature_that_no_token_excites():
    parts, weights = random_weights("crosscoder", n_layers=2, d_model=D_MODEL, d_dict=30)
    weights.encoder_bias[7] = -100.0  # every pre-activation is far below 0
    x = torch.randn(N_TOKENS, 2 * D_MODEL, generator=torch.Generator().manual_seed(2)).double()
    is_dead = torch.zeros(30, dtype=torch.bool)
    is_dead[7] = True
    jobs = jobs_for(parts, x, D_MODEL)
    _, without, entries = gradients(weights, jobs, x, x)
    assert 7 not in entries.features
    _, grads, _ = gradients(weights, jobs, x, x, AuxK(is_dead, 6, 1 / 32))
    assert without.encoders[0][7].abs().max() == 0
    assert grads.encoders[0][7].abs().max() > 1e-6
    assert grads.decoders[0][7].abs().max() > 1e-6
    assert grads.encoder_bias[7].abs() > 1e-6


def test_auxk_leaves_live_features_alone():
    parts, weights = random_weights("crosscoder", n_layers=2, d_model=D_MODEL, d_dict=30)
    x = torch.randn(N_TOKENS, 2 * D_MODEL, generator=torch.Generator().manual_seed(2)).double()
    is_dead = torch.arange(30) < 5
    jobs = jobs_for(parts, x, D_MODEL)
    _, without, _ = gradients(weights, jobs, x, x)
    _, grads, _ = gradients(weights, jobs, x, x, AuxK(is_dead, 9, 1 / 32))
    for with_aux, plain in (
        (grads.encoders[0], without.encoders[0]),
        (grads.decoders[0], without.decoders[0]),
    ):
        assert torch.equal(with_aux[5:], plain[5:])
    assert torch.equal(grads.decoder_bias, without.decoder_bias)
