"""The metrics have the values that their definitions give by hand."""

import math

import pytest
import torch

from deepseemoe.dictionary.metrics import (
    Predictions,
    Reconstruction,
    Sparsity,
    recovered,
    router_agreement,
    routing_kl,
)


@pytest.fixture
def y():
    rng = torch.Generator().manual_seed(0)
    return 1000 + torch.randn(500, 3, 8, generator=rng) * torch.tensor([1.0, 5, 20])[:, None]


def fvu(blocks):
    fit = Reconstruction(torch.full((3, 8), 900.0))
    for target, output in blocks:
        fit.add(target, output)
    return fit.fvu_L


def test_a_perfect_reconstruction_has_fvu_0(y):
    assert fvu([(y, y)]).tolist() == [0, 0, 0]


def test_the_mean_has_fvu_1(y):
    mean = y.double().mean(0).expand(len(y), -1, -1)
    torch.testing.assert_close(fvu([(y, mean)]), torch.ones(3).double(), rtol=1e-9, atol=0)


def test_fvu_is_a_ratio_of_sums_over_all_blocks(y):
    output = y + torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    whole = fvu([(y, output)])
    cut = fvu([(y[:10], output[:10]), (y[10:400], output[10:400]), (y[400:], output[400:])])
    torch.testing.assert_close(cut, whole, rtol=1e-9, atol=0)
    expected = (y - output).double().square().sum((0, 2))
    expected /= (y - y.double().mean(0)).square().sum((0, 2))
    torch.testing.assert_close(whole, expected, rtol=1e-6, atol=0)
    assert whole.tolist() == pytest.approx([1.0, 1 / 25, 1 / 400], rel=0.1)


def test_targets_that_never_vary_have_no_fvu():
    with pytest.raises(ValueError, match="do not vary over 9 valid tokens"):
        fvu([(torch.full((9, 3, 8), 900.0), torch.zeros(9, 3, 8))])


def test_sparsity_counts_active_features_and_silent_ones():
    sparsity = Sparsity(5)
    sparsity.add(torch.tensor([0, 2, 0, 2]), 3)
    sparsity.add(torch.tensor([3]), 1)
    assert sparsity.l0 == 5 / 4
    assert sparsity.dead_fraction == 2 / 5


@pytest.mark.parametrize(
    ("spliced", "expected"), [(2.0, 1.0), (6.0, 0.0), (3.0, 0.75), (7.0, -0.25)]
)
def test_recovered_is_the_way_back_from_ablated_to_original(spliced, expected):
    assert recovered(original=2.0, spliced=spliced, ablated=6.0) == expected


def test_nothing_is_recovered_where_ablation_changes_nothing():
    assert recovered(original=2.0, spliced=2.0, ablated=2.0) is None


def test_predictions_sum_cross_entropy_and_divergence_in_nats():
    original = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    other = torch.log(torch.tensor([[0.25, 0.25, 0.5], [0.1, 0.8, 0.1]]))
    target = torch.tensor([0, 1])
    same, changed = Predictions(), Predictions()
    same.add(original, original, target)
    changed.add(other, original, target)
    assert same.kl == 0
    assert same.cross_entropy == pytest.approx(-math.log(0.5) - math.log(0.8))
    assert changed.cross_entropy == pytest.approx(-math.log(0.25) - math.log(0.8))
    assert changed.kl == pytest.approx(0.5 * math.log(2) + 0.25 * math.log(0.5), rel=1e-5)


def test_router_agreement_is_the_share_of_experts_that_stay_in_any_order():
    original = torch.tensor([[0, 1, 2], [0, 1, 2], [0, 1, 2]])
    spliced = torch.tensor([[2, 0, 1], [0, 4, 5], [3, 4, 5]])
    assert router_agreement(original, spliced).tolist() == pytest.approx([1, 1 / 3, 0])


def test_routing_kl_ignores_a_shift_of_all_logits():
    logits = torch.tensor([[1.0, 2.0, 0.5]])
    assert routing_kl(logits, logits + 3).tolist() == pytest.approx([0], abs=1e-12)
    uniform = routing_kl(torch.zeros(1, 2), torch.log(torch.tensor([[0.25, 0.75]])))
    assert uniform.tolist() == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3)])
