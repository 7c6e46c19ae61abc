"""Where kernels can be tested, and random inputs for them."""

import os
from importlib.util import find_spec

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

needs_kernels = pytest.mark.skipif(
    find_spec("triton") is None
    or (DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET", "0") != "1"),
    reason="kernels need Triton, and a GPU or TRITON_INTERPRET=1",
)


class Draw:
    """Random inputs of one seed, on the device that is tested."""

    def __init__(self, seed, dtype=torch.float32):
        self.rng, self.dtype = torch.Generator().manual_seed(seed), dtype

    def size(self, low, high):
        return int(torch.randint(low, high + 1, (), generator=self.rng))

    def matrix(self, *shape):
        return torch.randn(*shape, generator=self.rng, dtype=self.dtype).to(DEVICE)

    def numbers(self, below, n):
        return torch.randint(0, below, (n,), generator=self.rng).to(DEVICE)

    def offsets(self, n_groups, most):
        """Groups of 0 to `most` entries; some are always empty where there are several."""
        counts = torch.randint(0, most + 1, (n_groups,), generator=self.rng)
        counts[1::3] = 0
        return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).to(DEVICE)

    def entries(self, n_tokens, n_features):
        """Offsets and columns of a sparse matrix with half of its entries; some rows are empty."""
        is_entry = torch.rand(n_tokens, n_features, generator=self.rng) < 0.5
        is_entry[1::3] = False
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), is_entry.sum(1).cumsum(0)])
        return offsets.to(DEVICE), torch.nonzero(is_entry)[:, 1].contiguous().to(DEVICE)


def counted(kernels):
    """Return the kernels, and how often each was called since."""
    calls = dict.fromkeys(kernels._fields, 0)

    def watched(name):
        def call(*args, **options):
            calls[name] += 1
            return getattr(kernels, name)(*args, **options)

        return call

    return kernels._replace(**{name: watched(name) for name in calls}), calls
