"""The numbers of one training run that follow from its configuration and the data.

Adam at 2e-4 / sqrt(d_dict / 2^14) (the rule of crosscoder_learning and dictionary_learning), a
linear rise, a plateau, and a linear fall to 0 over the last steps.
"""

from typing import NamedTuple

from deepseemoe.config.dictionary import DictionaryConfig

N_ROWS = 100
"""Rows of training.parquet, about."""


class Recipe(NamedTuple):
    """What a training run does at each step."""

    n_steps: int
    batch_tokens: int
    k: int
    peak_rate: float
    warmup_steps: int
    decay_steps: int
    max_grad_norm: float
    auxk_weight: float
    k_aux: int
    dead_tokens: int
    activation: str = "batch_topk"
    sparsity_weight: float = 0.0
    unit_decoder: bool = False
    pre_bias: bool = False
    adam_epsilon: float = 1e-8

    @classmethod
    def of(cls, config: DictionaryConfig, *, d_model: int) -> "Recipe":
        """Return the recipe; a configuration has tokens for one batch at least."""
        n_steps = config.n_tokens // config.batch_tokens
        return cls(
            n_steps=n_steps,
            batch_tokens=config.batch_tokens,
            k=config.k,
            peak_rate=config.learning_rate or 2e-4 / (config.d_dict / 2**14) ** 0.5,
            warmup_steps=int(config.warmup_fraction * n_steps),
            decay_steps=int(config.decay_fraction * n_steps),
            max_grad_norm=config.max_grad_norm,
            auxk_weight=config.auxk_weight,
            k_aux=config.k_aux or max(1, d_model // 2),
            dead_tokens=config.dead_tokens or max(1, min(10_000_000, config.n_tokens // 10)),
            activation=config.activation,
            sparsity_weight=config.sparsity_weight,
            unit_decoder=config.decoder_norm == "unit",
            pre_bias=config.pre_bias,
        )

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0; it is above 0 at every step."""
        rise = (step + 1) / (self.warmup_steps + 1)
        fall = (self.n_steps - step) / (self.decay_steps + 1)
        return self.peak_rate * min(1.0, rise, fall)

    def penalty(self, step: int) -> float:
        """Return the weight of the activation function's penalty at a step; it rises linearly."""
        return self.sparsity_weight * min(1.0, (step + 1) / (self.warmup_steps + 1))

    def is_logged(self, step: int) -> bool:
        """Return whether a row of the training table ends after `step` steps."""
        return step % max(1, self.n_steps // N_ROWS) == 0 or step == self.n_steps
