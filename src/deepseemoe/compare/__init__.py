"""Finished runs side by side, by measures that hang on neither n_experts nor top_k."""
