"""What cannot be trained is refused in one line, and nothing is left behind."""

import numpy as np
import pytest
from planted_stores import D_MODEL, write_store
from planted_training import QUICK, train

from deepseemoe.dictionary import trainer as trainer_module
from deepseemoe.names import Window


def test_a_gradient_that_is_not_finite_ends_training_with_a_clear_error(
    crosscoder_world, tmp_path, monkeypatch
):
    gather = trainer_module.gradient_of

    def poisoned(weights, *args, **kwargs):
        losses, gradient = gather(weights, *args, **kwargs)
        gradient.slope_z[0] = float("nan")
        return losses, gradient

    monkeypatch.setattr(trainer_module, "gradient_of", poisoned)
    with pytest.raises(ValueError, match="step 0: the gradient is not finite .* learning_rate"):
        train(crosscoder_world[:1], crosscoder_world[:1], tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_less_than_one_batch_to_train_on_is_refused(crosscoder_world, tmp_path):
    settings = {**QUICK, "n_tokens": 400}
    with pytest.raises(ValueError, match="n_tokens 400 is less than one batch"):
        train(crosscoder_world[:1], crosscoder_world[:1], tmp_path / "out", **settings)


def test_a_window_that_the_stores_do_not_hold_is_refused(crosscoder_world, tmp_path):
    with pytest.raises(ValueError, match="the store lacks resid_post/L02; it holds resid_post/L00"):
        train(crosscoder_world, crosscoder_world, tmp_path / "out", window=Window(1, 2), **QUICK)
    with pytest.raises(ValueError, match="the store lacks moe_in/L00"):
        train(crosscoder_world, crosscoder_world, tmp_path / "out", kind="transcoder", **QUICK)


def sites(change=None, n_tokens=2048):
    """Return a crosscoder's world of noise, changed."""
    rng = np.random.default_rng(3)
    found = {
        f"resid_post/L{layer:02d}": rng.standard_normal((n_tokens, D_MODEL)) for layer in (0, 1)
    }
    if change:
        change(found["resid_post/L01"])
    return found


def test_activations_that_are_not_numbers_make_no_store(tmp_path):
    def spoil(values):
        values[70, 3] = np.nan

    with pytest.raises(ValueError, match="resid_post/L01 is infinite or NaN"):
        write_store(tmp_path / "nan.zarr", sites(spoil))
    assert not (tmp_path / "nan.zarr").exists()


def test_activations_that_never_vary_are_refused_before_training(tmp_path):
    path = write_store(tmp_path / "a.zarr", sites(lambda values: values.fill(2.0)))
    with pytest.raises(ValueError, match="resid_post/L01: its variance over .* valid tokens is 0"):
        train([path], [path], tmp_path / "out" / "L00-L01", **QUICK)
    assert not (tmp_path / "out").exists()


def test_stores_of_less_than_a_batch_or_the_warm_up_are_refused(tmp_path):
    path = write_store(tmp_path / "a.zarr", sites(n_tokens=640))
    settings = {**QUICK, "batch_tokens": 1000}
    with pytest.raises(ValueError, match="hold 630 valid tokens, less than one batch of .* 1000"):
        train([path], [path], tmp_path / "out", **settings)
    told = (
        r"hold 630 valid tokens, fewer than the warm-up of 1000 \(warmup_fraction 0.05 of n_tokens "
        r"20000\); cache more text or lower n_tokens"
    )
    with pytest.raises(ValueError, match=told):
        train([path], [path], tmp_path / "out", **QUICK)
    assert [found.name for found in tmp_path.iterdir()] == ["a.zarr"]


def test_select_stores_without_a_valid_token_leave_no_dictionary(tmp_path):
    path = write_store(tmp_path / "a.zarr", sites())
    empty = write_store(
        tmp_path / "empty.zarr", sites(n_tokens=64), positions=np.zeros(64, np.uint32)
    )
    for activation in ("batch_topk", "relu"):
        settings = {**QUICK, "n_tokens": 1000, "activation": activation}
        with pytest.raises(ValueError, match="the select stores hold no valid token"):
            train([path], [empty], tmp_path / "out", **settings)
        assert not (tmp_path / "out").exists()


def test_more_features_than_jumprelu_can_start_with_are_refused(tmp_path):
    path = write_store(tmp_path / "a.zarr", sites())
    settings = {**QUICK, "activation": "jumprelu", "d_dict": 8, "k": 6}
    with pytest.raises(ValueError, match="fewer than k 6 of d_dict 8 features of a token are"):
        train([path], [path], tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("activation", ["batch_topk", "topk", "jumprelu", "relu"])
def test_batches_of_one_token_train(activation, tmp_path):
    path = write_store(tmp_path / "a.zarr", sites())
    settings = {**QUICK, "activation": activation, "batch_tokens": 1, "n_tokens": 20}
    dictionary = train([path], [path], tmp_path / "out", dead_tokens=4, **settings)
    assert all(bool(tensor.isfinite().all()) for tensor in dictionary.weights.tensors())
