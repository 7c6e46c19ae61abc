"""Which features are active at inference: a dictionary's gate, of one kind or another.

Training may select over a batch; a single token needs a rule of its own. `config.json` holds a
gate as plain data, and `weights.safetensors` its thresholds where each feature has one.

Axes: F features.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepseemoe.dictionary.codes import Entries
from deepseemoe.dictionary.layout import Part
from deepseemoe.dictionary.scan import SLACK, Job, Scanner, floors
from deepseemoe.dictionary.selection import kept
from deepseemoe.dictionary.topk import TopK as TopKSelector
from deepseemoe.dictionary.topk import shares_of
from deepseemoe.dictionary.weights import Weights


class Weighted(NamedTuple):
    """One threshold on scores: active where z > 0 and z * w >= threshold (BatchTopK; ReLU at 0)."""

    threshold: float

    def entries(
        self, weights: Weights, jobs: Sequence[Job], norm_F: Tensor, parts: Sequence[Part]
    ) -> Entries:
        """Return the active entries of what the jobs read."""
        found = Scanner().above(weights, jobs, floors(norm_F, self.threshold * (1 - SLACK)))
        reaches = found.values * norm_F[found.features] >= self.threshold
        return kept(found, torch.nonzero(reaches).squeeze(1))

    def to(self, device: str | torch.device) -> "Weighted":
        """Return the gate on `device`."""
        return self

    def described(self) -> dict[str, Any]:
        """Return the gate as plain data."""
        return {"kind": "weighted", "threshold": self.threshold}


class PerFeature(NamedTuple):
    """A threshold of each feature on its activation: active where z > 0 and z >= threshold."""

    threshold_F: Tensor

    def entries(
        self, weights: Weights, jobs: Sequence[Job], norm_F: Tensor, parts: Sequence[Part]
    ) -> Entries:
        """Return the active entries of what the jobs read."""
        least_F = self.threshold_F.clamp_min(0.0)
        found = Scanner().above(weights, jobs, least_F * (1 - SLACK))
        reaches = found.values >= least_F[found.features]
        return kept(found, torch.nonzero(reaches).squeeze(1))

    def to(self, device: str | torch.device) -> "PerFeature":
        """Return the gate on `device`."""
        return PerFeature(self.threshold_F.to(device))

    def described(self) -> dict[str, Any]:
        """Return the gate as plain data; the thresholds are among the weights."""
        return {"kind": "per_feature"}


class TopK(NamedTuple):
    """The k highest scores of each token; a transcoder's source layers share k.

    Not `weighted`, the k highest activations z: imported dictionaries may rank so.
    """

    k: int
    weighted: bool = True

    def entries(
        self, weights: Weights, jobs: Sequence[Job], norm_F: Tensor, parts: Sequence[Part]
    ) -> Entries:
        """Return the active entries of what the jobs read."""
        ranked_F = norm_F if self.weighted else torch.ones_like(norm_F)
        return TopKSelector(shares_of(self.k, parts)).select(weights, jobs, ranked_F).entries

    def to(self, device: str | torch.device) -> "TopK":
        """Return the gate on `device`."""
        return self

    def described(self) -> dict[str, Any]:
        """Return the gate as plain data."""
        return {"kind": "topk", "k": self.k} | ({} if self.weighted else {"weighted": False})


Gate = Weighted | PerFeature | TopK


def gate_of(described: Mapping[str, Any], thresholds_F: Tensor | None) -> Gate:
    """Return the gate that was described; raise ValueError where it is of no known kind."""
    kind = described.get("kind")
    if kind == "weighted":
        return Weighted(float(described["threshold"]))
    if kind == "topk":
        return TopK(int(described["k"]), bool(described.get("weighted", True)))
    if kind == "per_feature" and thresholds_F is not None:
        return PerFeature(thresholds_F)
    raise ValueError(f"gate {dict(described)}: expected kind weighted, topk or per_feature")
