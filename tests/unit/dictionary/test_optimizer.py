"""Adam by rows is torch's Adam, and a training step is dense autograd, clipping and that Adam."""

import pytest
import torch
from dense_loss import dense_loss
from dense_reference import random_weights, rebuilt

from deepseemoe.dictionary import gradients as gradients_module
from deepseemoe.dictionary.adam import Adam, Rows
from deepseemoe.dictionary.auxk import AuxK
from deepseemoe.dictionary.batches import Batch
from deepseemoe.dictionary.recipe import Recipe
from deepseemoe.dictionary.trainer import Trainer

N_TOKENS, D_MODEL, D_DICT, K = 40, 12, 70, 5


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=str
)
def test_adam_by_rows_is_torchs_adam_on_whole_tensors(dtype, tolerance):
    rng = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=rng, dtype=dtype) for shape in [(11, 4), (9,), (3, 7)]]
    ours, theirs = ([tensor.clone() for tensor in start] for _ in range(2))
    adam = Adam(ours, epsilon=1e-7)
    reference = torch.optim.Adam([t.requires_grad_() for t in theirs], lr=1.0, eps=1e-7)
    for step, (rate, divisor) in enumerate([(0.1, 1.0), (0.02, 3.75), (0.05, 1.0), (0.01, 250.0)]):
        gradients = [torch.randn(t.shape, generator=rng, dtype=dtype) for t in start]
        for tensor, gradient in zip(theirs, gradients, strict=True):
            tensor.grad = gradient / divisor
        reference.param_groups[0]["lr"] = rate
        reference.step()
        adam.begin(step, divisor=divisor)
        for place in range(3):  # some rows of every tensor at a time
            edges = [[0, 2, len(g) - 1, len(g)][place : place + 2] for g in gradients]
            block = [
                Rows(index, *edge, gradient[slice(*edge)].clone())
                for index, (edge, gradient) in enumerate(zip(edges, gradients, strict=True))
            ]
            for changed, (index, first, stop, _) in zip(
                adam.update(block, rate=rate), block, strict=True
            ):
                assert torch.equal(changed, ours[index][first:stop])
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other.detach(), rtol=tolerance, atol=tolerance)


class Reference:
    """Training by dense autograd on whole tensors."""

    def __init__(self, recipe, parts, weights):
        self.recipe, self.parts, self.like = recipe, parts, weights
        self.leaves = [tensor.clone().requires_grad_() for tensor in weights.tensors()]
        self.adam = torch.optim.Adam(self.leaves, lr=1.0, eps=recipe.adam_epsilon)
        self.silent = torch.zeros(D_DICT)

    def advance(self, step, x, y):
        """Take a step; return the loss, and whether it clipped."""
        recipe = self.recipe
        dead = AuxK(self.silent >= recipe.dead_tokens, recipe.k_aux, recipe.auxk_weight, step)
        loss, is_active = dense_loss(
            rebuilt(self.leaves, self.like), self.parts, x, y,
            d_model=D_MODEL, k=K, activation=recipe.activation, strength=recipe.penalty(step),
            auxk=dead, pre_bias=recipe.pre_bias,
        )  # fmt: skip
        self.adam.zero_grad()
        loss.backward()
        decoders = rebuilt(self.leaves, self.like).decoders if recipe.unit_decoder else ()
        for decoder in decoders:
            along = (decoder.grad * decoder.detach()).sum(1, keepdim=True)
            decoder.grad -= along * decoder.detach()
        norm = float(torch.cat([leaf.grad.view(-1) for leaf in self.leaves]).norm())
        for leaf in self.leaves:
            leaf.grad /= max(1.0, norm / recipe.max_grad_norm)
        self.adam.param_groups[0]["lr"] = recipe.learning_rate(step)
        self.adam.step()
        for decoder in decoders:
            decoder.data /= decoder.data.norm(dim=1, keepdim=True)
        self.silent = torch.where(is_active.any(0), 0, self.silent + len(x))
        return float(loss.detach()), norm > recipe.max_grad_norm


@pytest.mark.parametrize("activation", ["batch_topk", "topk", "jumprelu", "relu"])
@pytest.mark.parametrize("most", [0.05, 100.0], ids=["clipped", "not clipped"])
@pytest.mark.parametrize("unit", [False, True], ids=["free", "unit"])
@pytest.mark.parametrize(
    "form",
    [
        {"kind": "crosscoder", "prefixes": (0.3,)},
        {"kind": "crosscoder", "pre_bias": True},
        {"kind": "transcoder", "skip": True, "reconstruct_input": True},
    ],
    ids=["matryoshka", "pre_bias", "skip and pre/post"],
)
def test_steps_equal_those_of_dense_autograd_and_torchs_adam(
    activation, most, unit, form, monkeypatch
):
    monkeypatch.setattr(gradients_module, "BLOCK", 16)
    form = dict(form)
    pre_bias = form.pop("pre_bias", False)
    recipe = Recipe(
        12, N_TOKENS, K, 1e-2, 3, 2, most, 1 / 4, 6, 2 * N_TOKENS, activation, 0.7, unit, pre_bias
    )
    parts, weights = random_weights(
        n_layers=2, d_model=D_MODEL, d_dict=D_DICT, has_thresholds=activation == "jumprelu", **form
    )
    weights.encoder_bias[::6] -= 4.0  # some are to die
    if unit:
        for decoder in weights.decoders:
            decoder /= decoder.norm(dim=1, keepdim=True)
    reference = Reference(recipe, parts, weights)
    trainer = Trainer(recipe, parts, weights, d_model=D_MODEL)
    rng = torch.Generator().manual_seed(3)
    saw_dead = 0
    rough = 1e-6 if most < 1 else 1e-9  # torch's kernel takes the divisor as float32
    for step in range(recipe.n_steps):
        x = torch.randn(N_TOKENS, 2 * D_MODEL, generator=rng, dtype=torch.float64)
        y = torch.randn(N_TOKENS, len(weights.decoder_bias), generator=rng, dtype=torch.float64)
        y = x if form["kind"] == "crosscoder" else y
        report = trainer.advance(Batch(x, y))
        loss, is_clipped = reference.advance(step, x, y)
        assert report.loss == pytest.approx(loss, rel=rough)
        assert is_clipped == (most < 1)
        saw_dead += report.auxk_loss > 0
    assert saw_dead > 0
    assert torch.equal(trainer.silent_F.double(), reference.silent.double())
    for mine, other in zip(weights.tensors(), reference.leaves, strict=True):
        torch.testing.assert_close(mine, other.detach(), rtol=100 * rough, atol=rough)


def test_weights_that_are_not_contiguous_are_refused():
    with pytest.raises(ValueError, match="weights to train are contiguous"):
        Adam([torch.zeros(3, 4).t()])
