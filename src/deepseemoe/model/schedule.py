"""What one training of NanoMoE does at each step."""

from typing import NamedTuple

from deepseemoe.config import TrainingConfig

BETAS = (0.9, 0.95)
MAX_GRAD_NORM = 1.0


class Schedule(NamedTuple):
    """Steps and learning rates: linear warm-up, then linear decay to zero.

    Decay to zero beats decay to a tenth at every budget that Bergsma et al. 2025 tried
    (arXiv 2502.15938).
    """

    n_steps: int
    n_warmup: int
    batch_tokens: int
    peak: float

    @classmethod
    def of(cls, config: TrainingConfig, *, sequence_length: int) -> "Schedule":
        """Return the schedule that trains on at least `n_tokens` tokens."""
        batch_tokens = config.batch_sequences * sequence_length
        n_steps = -(-config.n_tokens // batch_tokens)
        n_warmup = max(1, round(config.warmup_fraction * n_steps))
        return cls(n_steps, n_warmup, batch_tokens, config.learning_rate)

    def learning_rate(self, step: int) -> float:
        """Return the rate of step `step`, counted from 0; the last step's is not zero yet."""
        rising = (step + 1) / self.n_warmup
        falling = (self.n_steps - step) / (self.n_steps - self.n_warmup + 1)
        return self.peak * min(rising, falling, 1.0)
