"""Worlds with a known answer; they live in `deepseemoe.trust`, and tests know them by this name."""

from deepseemoe.trust.nulls import null_world
from deepseemoe.trust.scores import auroc, average_precision
from deepseemoe.trust.world import CAUSAL, World, choose
from deepseemoe.trust.worlds import world

__all__ = ["CAUSAL", "World", "auroc", "average_precision", "choose", "null_world", "world"]
