"""What is known of scorers by their names."""

WITHOUT_LABEL = frozenset({"intruder"})
"""Scorers that never see the description: swapping descriptions is no null for them."""
