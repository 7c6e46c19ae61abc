"""How many features are taken at once; apart from `scan`, so that plans need no torch."""

BLOCK = 1024
"""Features of one block; 512 to 4096 took the same time, and smaller ones stay in cache."""

GPU_BLOCK = 8192
"""The same on a GPU, which waits for the host once a block."""
