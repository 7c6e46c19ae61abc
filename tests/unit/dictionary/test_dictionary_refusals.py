"""What cannot be trained is refused in one line, and nothing is left behind."""

import pytest
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
