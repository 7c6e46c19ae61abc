"""NanoMoE: a small Mixture-of-Experts language model for the transformers library."""
