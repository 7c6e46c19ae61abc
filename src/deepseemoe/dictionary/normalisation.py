"""Centre and scale of each layer, so that large residuals do not make a layer count for more.

    normalised = (raw - mean) * scale,  scale = sqrt(D / sum of the variances of all channels)

After it every layer has mean 0 and a mean squared norm of D over valid tokens. Without it the late
layers of a window, with norms many times larger, take nearly all features.

Axes: D d_model, L layers of the window, T tokens, C = L * D columns.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepseemoe.activations.store import ActivationStore

Channels = np.ndarray | Tensor
Moments = tuple[int, Channels, Channels]
"""Number of valid tokens, and mean and variance of each channel over them, float64 (D,)."""


class Normalisation(NamedTuple):
    """Mean and scale of each layer of a window, float32."""

    mean_LD: Tensor
    scale_L: Tensor

    @classmethod
    def of(cls, stores: Sequence[ActivationStore], sites: Sequence[str]) -> "Normalisation":
        """Return the normalisation of some sites over all valid rows of `stores`."""
        return cls.from_moments({site: _merged(stores, site) for site in sites})

    @classmethod
    def from_moments(cls, moments: Mapping[str, Moments]) -> "Normalisation":
        """Return the normalisation of some sites, in their order.

        Raises ValueError where a site never varies.
        """
        scales = [_scale(site, *parts) for site, parts in moments.items()]
        means = [torch.as_tensor(mean_D, device="cpu") for _, mean_D, _ in moments.values()]
        return cls(torch.stack(means).float(), torch.tensor(scales, dtype=torch.float32))

    def to(self, device: str | torch.device) -> "Normalisation":
        """Return the normalisation on `device`."""
        return Normalisation(self.mean_LD.to(device), self.scale_L.to(device))

    def apply(self, raw_TLD: Tensor) -> Tensor:
        """Return raw activations normalised, (T, L, D)."""
        return (raw_TLD - self.mean_LD) * self.scale_L[:, None]

    def undo(self, normalised_TLD: Tensor) -> Tensor:
        """Return normalised activations in raw units, (T, L, D)."""
        return normalised_TLD / self.scale_L[:, None] + self.mean_LD

    def of_layer(self, index: int) -> "Normalisation":
        """Return the normalisation of one layer of the window, counted from 0."""
        return Normalisation(self.mean_LD[index : index + 1], self.scale_L[index : index + 1])


def _merged(stores: Sequence[ActivationStore], site: str) -> Moments:
    """Return the moments of a site over stores."""
    parts = [store.statistics(site) for store in stores]
    n_D = np.array([part.n_valid for part in parts], dtype=np.float64)[:, None]
    mean_SD = np.stack([part.mean_D for part in parts]).astype(np.float64)
    variance_SD = np.stack([part.variance_D for part in parts]).astype(np.float64)
    n_valid = int(n_D.sum())
    if n_valid == 0:
        raise ValueError(f"{site}: no valid token in {len(parts)} stores; cache more text")
    mean_D = (n_D * mean_SD).sum(0) / n_valid
    variance_D = (n_D * (variance_SD + (mean_SD - mean_D) ** 2)).sum(0) / n_valid
    return n_valid, mean_D, variance_D


def _scale(site: str, n_valid: int, mean_D: Channels, variance_D: Channels) -> float:
    """Return the scale of a site; raise ValueError where it never varies."""
    total = float(variance_D.sum())
    if not (np.isfinite(total) and total > 0):
        raise ValueError(
            f"{site}: its variance over {n_valid} valid tokens is {total}; expected a finite "
            "number above 0; look at the model's activations there"
        )
    return (len(mean_D) / total) ** 0.5
