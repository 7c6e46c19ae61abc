"""Worlds as shards; they live in `deepseemoe.trust.in_memory`, and tests know them by this name."""

from deepseemoe.trust.in_memory import HeldArray as PlantedArray
from deepseemoe.trust.in_memory import HeldFeatures as PlantedFeatures
from deepseemoe.trust.in_memory import HeldStore as PlantedStore
from deepseemoe.trust.in_memory import Shards, shards

__all__ = ["PlantedArray", "PlantedFeatures", "PlantedStore", "Shards", "shards"]
