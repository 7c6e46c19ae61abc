"""Losses under interventions are held against changed models, and intervals against truth."""

import copy
import math

import numpy as np
import pytest
import torch

from deepseemoe.experts.ablations import (
    AblationLosses,
    DocumentBatch,
    ablation_losses,
    active_k,
    deepseekmoe_analyses,
    differences,
    disable_top_ratio,
    shared_off_plus_one,
    together,
)
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.nanomoe.configuration import NanoMoeConfig
from deepseemoe.model.nanomoe.modeling import NanoMoeForCausalLM
from deepseemoe.model.tokens import TokenBatch

VOCAB, LENGTH = 40, 24
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "moe_intermediate_size": 16, "num_experts": 8, "num_experts_per_tok": 2,
    "first_k_dense_replace": 1, "initializer_range": 0.4,
}  # fmt: skip


def model_of(**changes) -> MoeModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MoeModel(NanoMoeForCausalLM(NanoMoeConfig(**{**SIZES, **changes})))


def batches_of(n_batches: int = 3) -> list[DocumentBatch]:
    """Return batches of two sequences; documents of 7 tokens go on over their ends."""
    rng = np.random.default_rng(0)
    place = np.arange(n_batches * 2 * LENGTH).reshape(n_batches, 2, LENGTH)
    documents = place // 7 + 100
    opens = (place % 7 == 0) | (place % LENGTH == 0)
    start = np.maximum.accumulate(np.where(opens, place, 0).ravel()).reshape(place.shape)
    ids = rng.integers(0, VOCAB, place.shape)
    return [
        DocumentBatch(TokenBatch.from_arrays(*arrays), documents_SN)
        for *arrays, documents_SN in zip(ids, place - start, documents, strict=True)
    ]


def slow_sums(model: MoeModel, batches) -> dict[int, tuple[int, float]]:
    """Return how many tokens of each document are predicted, and their loss, token by token."""
    sums: dict[int, tuple[int, float]] = {}
    for (ids, positions), documents in batches:
        logits = model.logits(TokenBatch(ids, positions)).double()
        for row in range(len(ids)):
            for place in range(LENGTH - 1):
                if positions[row, place + 1] == 0:
                    continue
                exps = [math.exp(value) for value in logits[row, place].tolist()]
                loss = math.log(sum(exps)) - math.log(exps[int(ids[row, place + 1])])
                n, total = sums.get(int(documents[row, place]), (0, 0.0))
                sums[int(documents[row, place])] = (n + 1, total + loss)
    return sums


def changed(model: MoeModel, *, top_k: int | None = None, shared: bool = True) -> MoeModel:
    """Return a copy with another top-k in its routers, or shared experts of zeros."""
    network = copy.deepcopy(model.network)
    for layer in network.model.layers[1:]:
        layer.mlp.gate.top_k = top_k or layer.mlp.gate.top_k
        if not shared:
            layer.mlp.shared_experts.down_proj.weight.zero_()
    return MoeModel(network)


def test_losses_by_document_are_those_of_changed_models():
    model, batches = model_of(), batches_of()
    asked = {
        "nothing": lambda model: model.drop({}),
        "k": active_k(5),
        "shared": shared_off_plus_one(),
        "drop": lambda model: model.drop({1: [0, 1], 2: [3]}),
    }
    found = ablation_losses(model, iter(batches), asked)
    without = copy.deepcopy(model.network)
    without.model.layers[1].mlp.experts.down_proj[:2] = 0
    without.model.layers[2].mlp.experts.down_proj[3] = 0
    others = {
        "nothing": model, "k": changed(model, top_k=5),
        "shared": changed(model, top_k=3, shared=False), "drop": MoeModel(without),
    }  # fmt: skip
    clean = slow_sums(model, batches)
    assert found.documents_U.tolist() == sorted(clean)
    assert found.n_targets_U.tolist() == [clean[document][0] for document in sorted(clean)]
    assert found.clean_U == pytest.approx([clean[d][1] for d in sorted(clean)], rel=1e-5)
    assert np.array_equal(found.changed["nothing"], found.clean_U)
    for name, other in others.items():
        slow = slow_sums(other, batches)
        assert found.changed[name] == pytest.approx([slow[d][1] for d in sorted(slow)], rel=1e-5)
    rows = {row.name: row for row in differences(found)}
    n_targets, total = (sum(part) for part in zip(*clean.values(), strict=True))
    slow = sum(loss for _, loss in slow_sums(others["k"], batches).values())
    assert rows["k"].difference == pytest.approx((slow - total) / n_targets, rel=1e-4)
    assert rows["k"].clean == pytest.approx(total / n_targets, rel=1e-5)
    assert rows["k"].changed == pytest.approx(slow / n_targets, rel=1e-5)
    assert rows["k"].lo < rows["k"].difference < rows["k"].hi
    assert (rows["k"].n_documents, rows["k"].n_targets) == (len(clean), n_targets)
    assert rows["nothing"].difference == rows["nothing"].lo == rows["nothing"].hi == 0


def test_masks_change_the_loss_as_masked_choices_do():
    model, batches = model_of(norm_topk_prob=False), batches_of(1)
    found = ablation_losses(model, batches, {"mask": disable_top_ratio(0.25, layers=[1])})
    network = copy.deepcopy(model.network)
    gate = network.model.layers[1].mlp.gate

    def choose(hidden):
        logits = hidden.reshape(-1, 16) @ gate.weight.T
        weights, ids = logits.softmax(-1).sort(-1, descending=True)
        return logits, weights[:, 2:4], ids[:, 2:4]

    gate.forward = choose
    slow = slow_sums(MoeModel(network), batches)
    assert found.changed["mask"] == pytest.approx([slow[d][1] for d in sorted(slow)], rel=1e-4)


def test_the_analyses_of_a_model_are_those_that_it_allows():
    every = deepseekmoe_analyses(model_of())
    assert list(every) == [
        "disable_top_ratio=0.125", "disable_top_ratio=0.1875", "disable_top_ratio=0.25",
        "active_k=1", "active_k=2", "shared_off_plus_one",
    ]  # fmt: skip
    assert "shared_off_plus_one" not in deepseekmoe_analyses(model_of(n_shared_experts=0))
    found = ablation_losses(model_of(), batches_of(1), every)
    assert np.array_equal(found.changed["active_k=2"], found.clean_U)
    others = [name for name in every if name != "active_k=2"]
    assert not any(np.allclose(found.changed[name], found.clean_U) for name in others)


def test_an_interval_holds_the_truth_as_often_as_it_says():
    rng, hits, n_worlds = np.random.default_rng(1), 0, 200
    for world in range(n_worlds):
        n_U = rng.integers(5, 60, 80)
        added_U = n_U * rng.normal(0.3, 0.5, 80)  # documents differ; a token's mean is 0.3
        losses = AblationLosses(np.arange(80), n_U, 2.0 * n_U, {"one": 2.0 * n_U + added_U})
        (row,) = differences(losses, n_bootstrap=400, seed=world)
        hits += row.lo <= 0.3 <= row.hi
    assert 0.90 <= hits / n_worlds <= 0.985


def test_a_difference_that_is_the_same_for_every_token_has_no_width():
    n_U = np.array([3, 10, 40])
    losses = AblationLosses(np.arange(3), n_U, 1.5 * n_U, {"a": 2.0 * n_U, "b": 1.0 * n_U})
    rows = differences(losses)
    assert [row.name for row in rows] == ["a", "b"]
    for row, expected in zip(rows, (0.5, -0.5), strict=True):
        assert (row.lo, row.difference, row.hi) == pytest.approx((expected,) * 3)


def test_what_is_not_possible_is_said_before_any_model_runs(monkeypatch):
    model = model_of(n_shared_experts=0)
    monkeypatch.setattr(model, "logits", lambda tokens: pytest.fail("the model ran"))
    for begin, message in [
        (shared_off_plus_one(), "L01: the model has no shared experts; L02"),
        (together(active_k(2), active_k(9)), "L01: k 9 experts a token is not from 1 to 8"),
        (disable_top_ratio(0.9), "L01: a token may have only 1 experts left"),
        (active_k(2, layers=[0]), "L00: layer 0 is dense"),
    ]:
        with pytest.raises(ValueError, match=message):
            ablation_losses(model, batches_of(1), {"one": begin})
    with pytest.raises(ValueError, match="no token is predicted"):
        ablation_losses(model, [], {"one": active_k(2)})


def test_one_document_has_no_interval():
    losses = AblationLosses(np.zeros(1), np.ones(1), np.ones(1), {"a": np.ones(1)})
    with pytest.raises(ValueError, match="needs 2 of them, and there is 1"):
        differences(losses)
