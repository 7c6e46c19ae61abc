"""A training step with kernels is the step without them, and uses all of them."""

import pytest
import torch
from kernel_cases import DEVICE, Draw, counted, needs_kernels

from deepseemoe.config.dictionary import DictionaryConfig
from deepseemoe.dictionary import kernels, scan
from deepseemoe.dictionary.batches import Batch
from deepseemoe.dictionary.layout import n_slots, parts_of
from deepseemoe.dictionary.recipe import Recipe
from deepseemoe.dictionary.trainer import Trainer
from deepseemoe.dictionary.weights import regressed_weights, tied_weights, with_thresholds

pytestmark = needs_kernels

D_MODEL, N_TOKENS, N_STEPS = 10, 12, 2  # the interpreter takes 10 ms for a row
KEYS = {"d_dict": 16, "k": 3, "batch_tokens": N_TOKENS, "n_tokens": 10**6, "learning_rate": 1e-2}

CASES = {
    "crosscoder": {},
    "many dead": {"dead_tokens": N_TOKENS, "k": 1},
    "clipped": {"max_grad_norm": 1e-3},
    "transcoder": {"kind": "transcoder"},
    "transcoder, many dead": {"kind": "transcoder", "dead_tokens": N_TOKENS, "k": 2},
    "Matryoshka": {"prefixes": (0.3,)},
    "decoders of norm 1": {"decoder_norm": "unit"},
    "TopK": {"activation": "topk"},
    "JumpReLU": {"activation": "jumprelu"},
    "ReLU with L1": {"activation": "relu", "sparsity_weight": 0.01},
}


def trained(keys, dtype):
    """Return all tensors of a trainer after some steps, and what the steps reported."""
    config = DictionaryConfig(**KEYS | keys)
    layers = {"n_layers": 2, "d_dict": config.d_dict}
    whole = parts_of(config.kind, **layers)
    parts = parts_of(config.kind, prefixes=config.prefixes, **layers)
    draw = Draw(0, dtype)
    batches = [
        Batch(draw.matrix(N_TOKENS, 2 * D_MODEL), draw.matrix(N_TOKENS, n_slots(2) * D_MODEL))
        for _ in range(N_STEPS)
    ]
    shape = {"d_model": D_MODEL, "init_norm": 0.5, "seed": 0}
    if config.kind == "crosscoder":
        weights = tied_weights(whole[0], **shape)
    else:
        weights = regressed_weights(whole, *(side.float().cpu() for side in batches[0]), **shape)
    if config.activation == "jumprelu":
        x_TC = batches[0].inputs_TC.float().cpu()
        weights = with_thresholds(weights, whole, x_TC, k=config.k, d_model=D_MODEL)
    weights = type(weights)(*(_of_type(field, dtype) for field in weights)).to(DEVICE)
    recipe = Recipe.of(config, d_model=D_MODEL)._replace(warmup_steps=0)
    trainer = Trainer(recipe, parts, weights.cut(whole, parts), d_model=D_MODEL)
    reports = [trainer.advance(batch) for batch in batches]
    return trainer.state(), reports


def _of_type(field, dtype):
    if isinstance(field, tuple):
        return tuple(tensor.to(dtype) for tensor in field)
    return None if field is None else field.to(dtype)


@pytest.fixture
def calls(monkeypatch):
    """Make the library use the kernels wherever it asks for them, and count the calls."""
    fast, calls = counted(kernels.loaded())
    monkeypatch.setattr(kernels, "for_device", lambda device: fast)
    return calls


def without(monkeypatch, keys, dtype):
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "for_device", lambda device: None)
        return trained(keys, dtype)


@pytest.mark.parametrize("keys", CASES.values(), ids=CASES)
def test_steps_with_kernels_are_those_without(keys, calls, monkeypatch):
    found, reports = trained(keys, torch.float64)
    twin, twins = without(monkeypatch, keys, torch.float64)
    assert min(calls.values()) > 0
    for mine, theirs in zip(reports, twins, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-7)
    assert any(report.auxk_loss > 0 for report in reports) == ("dead_tokens" in keys)
    # Torch has the divisor of clipping in float32.
    tolerance = (
        {"rtol": 1e-6, "atol": 1e-9} if "max_grad_norm" in keys else {"rtol": 1e-9, "atol": 1e-11}
    )
    for name, tensor in twin.items():
        torch.testing.assert_close(
            found[name], tensor, **tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_which_steps_leave_decoders_to_the_separate_update(calls):
    trained(CASES["crosscoder"], torch.float64)
    assert calls["rows_adam"] == 2 * N_STEPS
    for case in ("decoders of norm 1", "ReLU with L1"):
        calls["rows_adam"] = 0
        trained(CASES[case], torch.float64)
        assert calls["rows_adam"] == N_STEPS


def test_steps_in_float32_with_a_rough_product_are_those_without(calls, monkeypatch):
    monkeypatch.setattr(scan, "_is_rough_fast", lambda inputs: True)
    monkeypatch.setattr(scan, "ENOUGH", 1)
    found, reports = trained({}, torch.float32)
    twin, twins = without(monkeypatch, {}, torch.float32)
    assert [report.n_active for report in reports] == [report.n_active for report in twins]
    assert reports[-1].loss == pytest.approx(twins[-1].loss, rel=1e-5)
    for name, tensor in twin.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


def test_the_same_steps_end_in_the_same_bytes(calls):
    once, again = (trained({"dead_tokens": N_TOKENS, "k": 1}, torch.float32)[0] for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_the_variable_turns_the_kernels_off(monkeypatch):
    monkeypatch.setattr(kernels, "_can_run", lambda device: True)
    assert kernels.for_device(torch.device("cuda", 0)) is kernels.loaded()
    monkeypatch.setenv(kernels.VARIABLE, "0")
    assert kernels.for_device(torch.device("cuda", 0)) is None
    assert kernels.for_device(torch.device("cpu")) is None
