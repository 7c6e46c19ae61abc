"""A world with a known answer: what a map reads of it, its routers, and what is true in it.

What is true is defined causally: feature f calls expert e where removing f from what routers read
lowers the share of f's tokens that choose e by .10 or more. That a direction was written into a
router's row is not enough: in superposition most rows hold a little of everything.

Axes: T tokens, D documents, F features, L layers with routers, E experts, K top_k, M width of the
residual.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.signal import lfilter

CAUSAL = 0.10
"""Fall of the share of tokens choosing the expert, from which on a pair is planted."""

NO_CAUSE = 0.02
"""A pair whose share changes by less than this is merely associated, if it is."""


class World(NamedTuple):
    """What a map reads, and what it should find; worlds without a router are nulls."""

    document_T: np.ndarray
    token_T: np.ndarray
    domain_D: np.ndarray
    features_TF: sp.csr_array
    """What the dictionary sees: noisy activations, with misses and false firings."""
    experts_TLK: np.ndarray
    weights_TLK: np.ndarray
    n_experts: int
    decoder_FM: np.ndarray | None = None
    """Directions as the dictionary knows them."""
    router_LEM: np.ndarray | None = None
    effect_LFE: np.ndarray | None = None
    """True fall of the share of a feature's tokens that choose an expert, without the feature."""
    residual_TM: np.ndarray | None = None
    """What routers read, before their norm where they have one."""
    paths_MM: np.ndarray | None = None
    """What a feature's direction has become when routers read it; None where it is unchanged."""
    gain_M: np.ndarray | None = None
    """Gain of the RMS norm before the routers; None where there is no norm."""
    bias_LE: np.ndarray | None = None
    """Added to logits for the choice, not for the gate weights."""
    is_token_F: np.ndarray | None = None
    """Which features are functions of the token alone."""

    @property
    def truth_LFE(self) -> np.ndarray:
        """Which features call which experts."""
        return self.effect_LFE >= CAUSAL

    @property
    def top_k(self) -> int:
        """Experts that a token chooses."""
        return self.experts_TLK.shape[-1]

    def normed(self, residual_TM: np.ndarray) -> np.ndarray:
        """Return what the routers' rows are multiplied with."""
        if self.gain_M is None:
            return residual_TM
        rms_T1 = np.sqrt((residual_TM**2).mean(-1, keepdims=True))
        return residual_TM / rms_T1 * self.gain_M

    def scores(self, residual_TM: np.ndarray, place: int) -> np.ndarray:
        """Return by what the router at `place` among the layers chooses experts (T, E)."""
        return self.normed(residual_TM) @ self.router_LEM[place].T + self.bias_LE[place]


def choose(
    scores_TLE: np.ndarray, top_k: int, logits_TLE: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the top-k experts (T, L, K) by falling weight, and their softmax weights.

    Weights are of `logits_TLE` where they differ from what the choice goes by.
    """
    logits = scores_TLE if logits_TLE is None else logits_TLE
    experts = np.argsort(-scores_TLE, axis=-1, kind="stable")[..., :top_k]
    chosen = np.take_along_axis(logits, experts, -1)
    by_weight = np.argsort(-chosen, axis=-1, kind="stable")
    experts = np.take_along_axis(experts, by_weight, -1)
    chosen = np.take_along_axis(chosen, by_weight, -1)
    weights = np.exp(chosen - chosen[..., :1])
    weights /= weights.sum(-1, keepdims=True)
    return experts.astype(np.uint8), weights.astype(np.float16)


def causal_effects(
    world: World,
    activations_TF: sp.csr_array,
    directions_FM: np.ndarray,
    *,
    most: int | None = None,
) -> np.ndarray:
    """Return how much removing each feature lowers the share of its tokens choosing an expert.

    (L, F, E): `z * direction` is taken out of what routers read on every token where the feature
    fires, or on `most` of them, evenly spaced; feature by feature, as plainly as it can be written:
    this is the truth that faster code is held against.
    """
    n_layers, n_experts, _ = world.router_LEM.shape
    columns = activations_TF.tocsc()
    effect = np.zeros((n_layers, directions_FM.shape[0], n_experts))
    for feature, direction_M in enumerate(directions_FM):
        part = slice(*columns.indptr[feature : feature + 2])
        rows, z = columns.indices[part], columns.data[part]
        if not rows.size:
            continue
        if most is not None and rows.size > most:
            some = np.linspace(0, rows.size - 1, most).astype(int)
            rows, z = rows[some], z[some]
        before_TM = world.residual_TM[rows]
        after_TM = before_TM - z[:, None] * direction_M
        for place in range(n_layers):
            was = is_chosen(world.scores(before_TM, place), world.top_k)
            remains = is_chosen(world.scores(after_TM, place), world.top_k)
            effect[place, feature] = was.mean(0) - remains.mean(0)
    return effect


def is_chosen(scores_TE: np.ndarray, top_k: int) -> np.ndarray:
    """Return which experts are among the top k of each token."""
    least = np.partition(scores_TE, -top_k, axis=-1)[..., -top_k, None]
    return scores_TE >= least


def with_truth(world: World, true_TF: sp.csr_array, direction_FM: np.ndarray) -> World:
    """Return the world with its routing, and the true effect of each feature, filled in."""
    n_layers = world.router_LEM.shape[0]
    scores_TLE = np.stack([world.scores(world.residual_TM, n) for n in range(n_layers)], axis=1)
    experts_TLK, weights_TLK = choose(scores_TLE, world.top_k, scores_TLE - world.bias_LE)
    world = world._replace(experts_TLK=experts_TLK, weights_TLK=weights_TLK)
    arrives_FM = direction_FM if world.paths_MM is None else direction_FM @ world.paths_MM.T
    return world._replace(effect_LFE=causal_effects(world, true_TF, arrives_FM))


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of length one."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def turned(
    rng: np.random.Generator, direction_FM: np.ndarray, cosine: float, towards_FM: np.ndarray
) -> np.ndarray:
    """Return directions turned so that their cosine with the true ones is `cosine`.

    They turn to random sides plus `towards_FM`.
    """
    other = rng.normal(size=direction_FM.shape) + towards_FM
    other -= (other * direction_FM).sum(1, keepdims=True) * direction_FM
    return cosine * direction_FM + np.sqrt(1 - cosine**2) * unit(other)


def lasting(
    rng: np.random.Generator, starts_TF: np.ndarray, document_T: np.ndarray, length: float
) -> np.ndarray:
    """Return firings that go on from each start for a geometric length, not beyond the document."""
    row_T1 = np.arange(document_T.size)[:, None]
    until_TF = np.where(starts_TF, row_T1 + rng.geometric(1 / length, starts_TF.shape), 0)
    ends_T = np.searchsorted(document_T, document_T, side="right")
    until_TF = np.maximum.accumulate(np.minimum(until_TF, ends_T[:, None]), axis=0)
    return until_TF > row_T1


def smooth(noise_TE: np.ndarray, memory: float) -> np.ndarray:
    """Return a stationary AR(1) series of unit variance with this correlation length."""
    keep = np.exp(-1 / memory) if memory else 0.0
    fresh = np.sqrt(1 - keep**2)
    return lfilter([fresh], [1, -keep], noise_TE, axis=0, zi=keep * noise_TE[:1])[0]
