"""The activation store: what the model's sites and routers computed on each token of a shard.

`capture.cache_activations` writes it, `ActivationStore` reads it. `reader.py` says how to read
batches for training at the speed of the page cache.
"""

from deepseemoe.activations.reader import MappedArray
from deepseemoe.activations.store import ActivationStore, Statistics

__all__ = ["ActivationStore", "MappedArray", "Statistics"]
