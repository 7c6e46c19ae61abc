"""The losses against their plain formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_moe import packed_batch

from deepseemoe.model import losses


@pytest.mark.parametrize("n_tokens", [1, 7, 8, 21])
def test_chunked_cross_entropy_matches_the_plain_one(n_tokens, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_TOKENS", 7)
    hidden = torch.randn(n_tokens, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (n_tokens,))
    ours = losses.linear_cross_entropy(hidden, weight, targets)
    (3 * ours).backward()
    grads = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    plain = F.cross_entropy(hidden @ weight.T, targets)
    (3 * plain).backward()
    assert torch.allclose(ours.double(), plain, atol=1e-6)
    assert torch.allclose(grads[0], hidden.grad, atol=1e-6)
    assert torch.allclose(grads[1], weight.grad, atol=1e-6)


def test_half_precision_keeps_the_types_of_its_gradients():
    hidden = torch.randn(9, 4, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(6, 4, requires_grad=True)
    losses.linear_cross_entropy(hidden, weight, torch.zeros(9, dtype=torch.int64)).backward()
    assert hidden.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32


def test_no_token_is_asked_for_the_next_document():
    tokens = packed_batch([[3, 5], [8, 0]])
    ids, positions = tokens
    hidden, weight = torch.randn(2, 8, 4), torch.randn(96, 4)
    total, count = 0.0, 0
    for row in range(2):
        for place in range(7):
            if positions[row, place + 1] != 0:
                log_p = (hidden[row, place] @ weight.T).log_softmax(-1)
                total, count = total - log_p[ids[row, place + 1]], count + 1
    assert count == 13
    loss = losses.next_token_loss(hidden, weight, ids, positions)
    assert torch.allclose(loss, total / count, atol=1e-5)


def test_balance_loss_is_one_where_load_is_uniform():
    logits = torch.eye(8).repeat(4, 1) * 1e-3  # each expert is first choice of as many tokens
    assert losses.balance_loss([logits, logits], top_k=1).item() == pytest.approx(1, abs=1e-6)
    rolled = logits + 0.5 * logits.roll(1, -1)
    assert losses.balance_loss([rolled], top_k=2).item() == pytest.approx(1, abs=1e-6)


def test_balance_loss_is_n_experts_where_one_expert_has_all():
    logits = torch.zeros(20, 8)
    logits[:, 3] = 50.0
    assert losses.balance_loss([logits], top_k=1).item() == pytest.approx(8, rel=1e-5)


def test_balance_loss_pushes_load_towards_idle_experts():
    logits = torch.zeros(20, 4)
    logits[:, 0] = 1.0
    logits.requires_grad_()
    losses.balance_loss([logits], top_k=1).backward()
    assert (logits.grad[:, 0] > 0).all()
    assert (logits.grad[:, 1:] < 0).all()


def test_z_loss_is_the_mean_square_of_the_log_partition():
    logits = torch.zeros(5, 8)
    assert losses.z_loss([logits, logits + 1]).item() == pytest.approx(
        (math.log(8) ** 2 + (math.log(8) + 1) ** 2) / 2, rel=1e-5
    )
