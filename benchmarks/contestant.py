"""What benchmarks ask of a peer's trainer, and which peers are installed (`make peers`).

Axes: T tokens, F features, C columns.
"""

import contextlib
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterable
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor


class Setting(NamedTuple):
    """What all contestants share; `auxk` asks for AuxK where a peer's default is without."""

    d_in: int
    d_dict: int
    k: int
    batch_tokens: int
    n_steps: int
    seed: int = 0
    auxk: bool = False

    @property
    def warmup_steps(self) -> int:
        """Steps over which dictionary-learning, and sparsify with Adam, let the rate rise."""
        return min(1000, self.n_steps // 10)  # theirs is 1,000: in a short run all of it


class Learnt(NamedTuple):
    """An SAE as plain numbers: z = E x + b, active where z > 0 and z >= threshold, ŷ = W z + c.

    No threshold: the k highest of each token are active.
    """

    encoder_FC: Tensor
    encoder_bias_F: Tensor
    decoder_FC: Tensor
    decoder_bias_C: Tensor
    threshold_F: Tensor | None


class Peer(Protocol):
    """One peer in training."""

    NAME: ClassVar[str]
    MODULES: ClassVar[tuple[str, ...]]
    """What importing it takes."""

    def __init__(self, setting: Setting) -> None:
        """Make a trainer at its start."""

    def step(self, inputs_TC: Tensor) -> float:
        """Train on a batch and return the loss."""

    def kill(self, is_dead_F: Tensor) -> None:
        """Make features silent and long dead, so that the next step has them in AuxK."""

    def n_dead(self) -> int:
        """Return how many features the next step takes for dead, if they stay silent in it."""

    def n_active(self, inputs_TC: Tensor) -> int:
        """Return how many activations training would select on a batch."""

    def learnt(self) -> Learnt:
        """Return what it would save now."""


def available(peers: Iterable[type[Peer]]) -> list[type[Peer]]:
    """Return the peers that can be imported; print why others cannot, once each."""
    found = []
    for peer in peers:
        is_news = peer.MODULES not in _REASONS
        reason = why_missing(peer)
        if reason is None:
            found.append(peer)
        elif is_news:
            print(f"{peer.NAME}: left out, {reason}; see `make peers`")
    return found


_REASONS: dict[tuple[str, ...], str | None] = {}


def why_missing(peer: type[Peer]) -> str | None:
    """Return why a peer cannot be imported; None where it can."""
    if peer.MODULES not in _REASONS:
        _REASONS[peer.MODULES] = _import_all(peer.MODULES)
    return _REASONS[peer.MODULES]


def _import_all(modules: Iterable[str]) -> str | None:
    if "nnsight" not in sys.modules and importlib.util.find_spec("nnsight") is None:
        stand_in = types.ModuleType("nnsight")
        stand_in.LanguageModel = object
        sys.modules["nnsight"] = stand_in
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        for module in modules:
            try:
                importlib.import_module(module)
            except Exception as error:  # whatever a peer's import raises, it is the reason
                return f"import {module}: {type(error).__name__}: {error}"
    return None
