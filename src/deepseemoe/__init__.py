"""Which learned features live in which experts of a Mixture-of-Experts language model."""

__version__ = "0.1.0"
