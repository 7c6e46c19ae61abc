"""The sparse training step has the gradients of the plain dense formula, for every form."""

from itertools import product

import pytest
import torch
from dense_loss import dense_loss, whole
from dense_reference import jobs_for, random_weights, rebuilt

from deepseemoe.dictionary import gradients as gradients_module
from deepseemoe.dictionary.auxk import AuxK
from deepseemoe.dictionary.gradients import gradient_of
from deepseemoe.dictionary.recipe import Recipe
from deepseemoe.dictionary.trainer import activation_of

N_TOKENS, D_MODEL, D_DICT, K = 40, 12, 70, 5
FORMS = {
    "sae": {"kind": "crosscoder", "n_layers": 1},
    "crosscoder": {"kind": "crosscoder", "n_layers": 3},
    "sae with pre_bias": {"kind": "crosscoder", "n_layers": 1, "pre_bias": True},
    "crosscoder with pre_bias": {"kind": "crosscoder", "n_layers": 3, "pre_bias": True},
    "transcoder": {"kind": "transcoder", "n_layers": 1},
    "cross-layer": {"kind": "transcoder", "n_layers": 3},
    "per-layer": {"kind": "transcoder", "n_layers": 3, "cross_layer": False},
    "skip": {"kind": "transcoder", "n_layers": 3, "skip": True},
    "pre/post": {"kind": "transcoder", "n_layers": 3, "reconstruct_input": True},
    "skip and pre/post": {
        "kind": "transcoder", "n_layers": 2, "skip": True, "reconstruct_input": True,
    },
    "per-layer, skip and pre/post": {
        "kind": "transcoder", "n_layers": 2, "skip": True, "reconstruct_input": True,
        "cross_layer": False,
    },
}  # fmt: skip
ACTIVATIONS = ("batch_topk", "topk", "jumprelu", "relu")
PREFIXES = ((), (0.2, 0.5))
STRENGTH = 0.7
CASES = [*product(FORMS, ACTIVATIONS, PREFIXES)]


def recipe(activation):
    return Recipe(9, N_TOKENS, K, 1e-3, 0, 0, 1.0, 1 / 32, 6, 100, activation=activation)


class Case:
    """One form with random weights, a random batch, and both ways to a gradient."""

    def __init__(self, form, activation="batch_topk", prefixes=(), *, n_tokens=N_TOKENS):
        settings = dict(FORMS[form])
        self.pre_bias = settings.pop("pre_bias", False)
        self.activation = activation
        self.parts, self.weights = random_weights(
            d_model=D_MODEL,
            d_dict=D_DICT,
            has_thresholds=activation == "jumprelu",
            prefixes=prefixes,
            **settings,
        )
        self.rng = torch.Generator().manual_seed(1)
        x = self.draw(n_tokens, settings["n_layers"] * D_MODEL)
        self.x = x
        is_target = settings["kind"] == "crosscoder"
        self.y = x if is_target else self.draw(n_tokens, len(self.weights.decoder_bias))

    def draw(self, *shape):
        return torch.randn(*shape, generator=self.rng, dtype=torch.float64)

    def dead(self, n_dead, k_aux, step=0):
        is_dead = torch.zeros(D_DICT, dtype=torch.bool)
        is_dead[torch.randperm(D_DICT, generator=self.rng)[:n_dead]] = True
        return AuxK(is_dead, k_aux, 1 / 32, step)

    def sparse(self, auxk=None):
        """Return losses and gradient of the step that training takes."""
        weights, activation = self.weights, activation_of(recipe(self.activation), self.parts)
        read = self.x - weights.decoder_bias if self.pre_bias else self.x
        jobs, norm_F = jobs_for(self.parts, read, D_MODEL), weights.norm_F(D_MODEL)
        selection = activation.select(weights, jobs, norm_F)
        return gradient_of(
            weights, jobs, self.y, selection, activation,
            inputs_TC=self.x, d_model=D_MODEL, norm_F=norm_F, strength=STRENGTH, dead=auxk,
            pre_bias=self.pre_bias,
        )  # fmt: skip

    def dense(self, auxk=None):
        """Return loss and gradients of dense autograd."""
        leaves = [w.clone().requires_grad_() for w in self.weights.tensors()]
        loss, _ = dense_loss(
            rebuilt(leaves, self.weights), self.parts, self.x, self.y,
            d_model=D_MODEL, k=K, activation=self.activation, strength=STRENGTH, auxk=auxk,
            pre_bias=self.pre_bias,
        )  # fmt: skip
        loss.backward()
        return float(loss.detach()), [leaf.grad for leaf in leaves]


def check(case, auxk=None):
    """Hold the gradient against dense autograd, and return its losses."""
    losses, gradient = case.sparse(auxk)
    loss, expected = case.dense(auxk)
    assert losses.total == pytest.approx(loss, rel=1e-12)
    for found, reference in zip(whole(gradient), expected, strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-10, atol=1e-14)
    return losses


@pytest.mark.parametrize(("form", "activation", "prefixes"), CASES)
@pytest.mark.parametrize("n_dead", [0, 20])
def test_gradients_equal_those_of_dense_autograd(form, activation, prefixes, n_dead):
    case = Case(form, activation, prefixes)
    losses = check(case, case.dead(n_dead, 6))
    assert (losses.auxk > 0) == (n_dead > 0)


@pytest.mark.parametrize("form", ["crosscoder", "skip and pre/post"])
def test_fewer_dead_features_than_auxk_uses_have_the_gradient_too(form):
    case = Case(form)
    assert check(case, case.dead(4, 6)).auxk > 0


@pytest.mark.parametrize("step", [0, 1])
def test_auxk_on_every_second_token_of_a_large_batch_has_the_gradient_too(step):
    case = Case("per-layer", n_tokens=1100)
    assert check(case, case.dead(20, 6, step)).auxk > 0


@pytest.mark.parametrize("form", FORMS)
def test_blocks_of_rows_do_not_change_the_gradient(form, monkeypatch):
    monkeypatch.setattr(gradients_module, "BLOCK", 7)
    case = Case(form, "relu", (0.2, 0.5))
    check(case, case.dead(20, 6))


def test_a_batch_in_which_nothing_is_active_has_the_gradient_of_its_bias():
    for activation in ACTIVATIONS:
        case = Case("skip", activation)
        case.weights.encoder_bias.sub_(1000.0)
        losses = check(case)
        assert losses.squared_error > 0


def test_the_gradient_check_sees_one_aux_feature_more():
    case = Case("crosscoder")
    auxk = case.dead(20, 6)
    loss, expected = case.dense(auxk)
    losses, gradient = case.sparse(auxk._replace(k_aux=7))
    assert abs(losses.total - loss) > 1e-6
    apart = [float((a - b).abs().max()) for a, b in zip(whole(gradient), expected, strict=True)]
    assert max(apart) > 1e-6


@pytest.mark.parametrize(("form", "activation", "prefixes"), CASES)
def test_the_norm_is_never_below_the_true_one(form, activation, prefixes):
    case = Case(form, activation, prefixes)
    for n_dead in (0, 20):
        _, gradient = case.sparse(case.dead(n_dead, 6))
        squares = sum(float(tensor.square().sum()) for tensor in whole(gradient))
        assert gradient.norm(enough=float("inf")) >= squares**0.5
        assert gradient.norm(enough=1e-9) == pytest.approx(squares**0.5, rel=1e-12)


def test_auxk_moves_the_encoder_of_a_feature_that_no_token_excites():
    case = Case("crosscoder")
    case.weights.encoder_bias[7] = -100.0  # every pre-activation is far below 0
    auxk = AuxK(torch.arange(D_DICT) == 7, 6, 1 / 32)
    without, found = (rebuilt(whole(case.sparse(a)[1]), case.weights) for a in (None, auxk))
    assert without.encoders[0][7].abs().max() == 0
    assert found.encoders[0][7].abs().max() > 1e-6
    assert found.decoders[0][7].abs().max() > 1e-6
    assert found.encoder_bias[7].abs() > 1e-6


def test_auxk_leaves_live_features_alone():
    case = Case("crosscoder")
    auxk = AuxK(torch.arange(D_DICT) < 5, 9, 1 / 32)
    without, found = (rebuilt(whole(case.sparse(a)[1]), case.weights) for a in (None, auxk))
    for with_aux, plain in (
        (found.encoders[0], without.encoders[0]),
        (found.decoders[0], without.decoders[0]),
    ):
        assert torch.equal(with_aux[5:], plain[5:])
    assert torch.equal(found.decoder_bias, without.decoder_bias)
