"""Worlds with a known answer for the maps: level 1 of the planted benchmark, and its nulls.

`world` makes documents of Zipf tokens in domains, features of three sorts (a token set, a span
after a trigger token, a domain), a residual that is the sum of the active features' directions, and
routers that take the top k of a linear read-out. A dictionary sees the features imperfectly: its
directions are turned, some firings are missed and some are false. What is true is defined causally:
feature f calls expert e where removing f from the residual lowers the share of f's tokens that
choose e by .10 or more. `null_world` makes features and routing that have nothing to do with each
other but are each correlated along documents, as real ones are.

Axes: T tokens, D documents, F features, L layers, E experts, K top_k, M width of the residual.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

CAUSAL = 0.10
"""Fall of the share of tokens choosing the expert, from which on a pair is planted."""


class World(NamedTuple):
    """What a map reads, and what it should find."""

    document_T: np.ndarray
    token_T: np.ndarray
    domain_D: np.ndarray
    features_TF: sp.csr_array
    experts_TLK: np.ndarray
    weights_TLK: np.ndarray
    n_experts: int
    decoder_FM: np.ndarray | None = None
    router_LEM: np.ndarray | None = None
    effect_LFE: np.ndarray | None = None

    @property
    def truth_LFE(self) -> np.ndarray:
        """Which features call which experts."""
        return self.effect_LFE >= CAUSAL


def world(
    seed: int,
    *,
    n_documents: int = 250,
    n_features: int = 240,
    n_experts: int = 16,
    top_k: int = 4,
    n_layers: int = 1,
    width: int = 96,
    cosine: float = 0.85,
    imbalance: float = 0.0,
    indirect: float = 0.0,
) -> World:
    """Return a planted world: realistic as it is, hard with cosine .6 and imbalance 2.

    `cosine` is how well the dictionary knows directions, `imbalance` the spread of the experts'
    biases, `indirect` the size of a second path (as attention has one) from the residual to the
    router, which the map by weights cannot see.
    """
    rng = np.random.default_rng([seed, 1])
    document_T = np.repeat(np.arange(n_documents), _lengths(rng, n_documents))
    domain_D = rng.integers(6, size=n_documents)
    token_T = _tokens(rng, domain_D[document_T])
    true_TF = _features(rng, n_features, document_T, token_T, domain_D[document_T])
    direction_FM = _unit(rng.normal(size=(n_features, width)))
    residual_TM = true_TF @ direction_FM + 0.1 * rng.normal(size=(token_T.size, width))
    router_LEM = _routers(rng, n_layers, n_experts, direction_FM)
    paths_MM = np.eye(width) + indirect * rng.normal(size=(width, width)) / width**0.5
    reads_LEM = router_LEM @ paths_MM
    bias_LE = imbalance * rng.normal(size=(n_layers, n_experts))
    logits_TLE = np.einsum("tm,lem->tle", residual_TM, reads_LEM) + bias_LE
    experts_TLK, weights_TLK = choose(logits_TLE, top_k)
    return World(
        document_T,
        token_T,
        domain_D,
        _seen(rng, true_TF),
        experts_TLK,
        weights_TLK,
        n_experts,
        _turned(rng, direction_FM, cosine),
        router_LEM,
        _effects(true_TF, direction_FM, reads_LEM, logits_TLE, top_k),
    )


def null_world(
    seed: int,
    *,
    n_documents: int = 200,
    n_features: int = 100,
    n_experts: int = 16,
    top_k: int = 4,
    spans: float = 8.0,
    memory: float = 4.0,
    document_level: float = 0.0,
    by_length: bool = False,
    density: tuple[float, float] = (0.003, 0.1),
) -> World:
    """Return features and routing that are independent, each correlated along its documents.

    `spans` is the mean length of a firing, `memory` the correlation length of router logits,
    `document_level` how much both depend on the document; `by_length` lets both depend on its
    length.
    """
    rng = np.random.default_rng([seed, 2])
    lengths_D = _lengths(rng, n_documents)
    document_T = np.repeat(np.arange(n_documents), lengths_D)
    rate_F = np.exp(rng.uniform(*np.log(density), n_features))
    taste_DF = np.exp(1.5 * document_level * rng.normal(size=(n_documents, n_features)))
    taste_DF /= taste_DF.mean(0)
    mood_DE = document_level * rng.normal(size=(n_documents, n_experts))
    if by_length:
        rank_D = (np.argsort(np.argsort(lengths_D)) / n_documents - 0.5)[:, None]
        taste_DF *= np.exp(2 * rank_D * rng.normal(size=n_features))
        mood_DE += 2 * rank_D * rng.normal(size=n_experts)
    starts_TF = rng.random((document_T.size, n_features)) < (rate_F * taste_DF / spans)[document_T]
    fires_TF = _spans(rng, starts_TF, document_T, spans)
    noise_TE = _smooth(rng.normal(size=(document_T.size, n_experts)), memory)
    logits_TLE = (noise_TE + mood_DE[document_T] + 0.7 * rng.normal(size=n_experts))[:, None]
    experts_TLK, weights_TLK = choose(logits_TLE, top_k)
    values_TF = sp.csr_array(fires_TF * rng.lognormal(0, 0.3, fires_TF.shape)).astype(np.float32)
    token_T = rng.integers(50, size=document_T.size)
    domain_D = np.zeros(n_documents, int)
    return World(document_T, token_T, domain_D, values_TF, experts_TLK, weights_TLK, n_experts)


def choose(logits_TLE: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the top-k experts (T, L, K) by falling weight, and their softmax weights."""
    experts = np.argsort(-logits_TLE, axis=-1, kind="stable")[..., :top_k]
    chosen = np.take_along_axis(logits_TLE, experts, -1)
    weights = np.exp(chosen - chosen.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return experts.astype(np.uint8), weights.astype(np.float16)


def average_precision(score: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean precision at each true item in the order of falling score."""
    hit = truth.ravel()[np.argsort(-score.ravel(), kind="stable")]
    return float((np.cumsum(hit) / np.arange(1, hit.size + 1))[hit].mean())


def auroc(score: np.ndarray, truth: np.ndarray) -> float:
    """Return the chance that a true item scores higher than a false one."""
    order = np.argsort(np.argsort(score.ravel(), kind="stable"), kind="stable") + 1
    hit = truth.ravel()
    n_true = hit.sum()
    return float((order[hit].sum() - n_true * (n_true + 1) / 2) / n_true / (~hit).sum())


def _lengths(rng: np.random.Generator, n_documents: int) -> np.ndarray:
    return np.clip(rng.lognormal(np.log(70), 0.6, n_documents), 15, 400).astype(int)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _tokens(rng: np.random.Generator, domain_T: np.ndarray, n_types: int = 600) -> np.ndarray:
    """Return Zipf tokens, with frequencies that differ between domains."""
    share_CV = 1 / (np.arange(n_types) + 8.0) * np.exp(rng.normal(size=(6, n_types)))
    edges_CV = np.cumsum(share_CV / share_CV.sum(1, keepdims=True), axis=1)
    draws_T = rng.random(domain_T.size)
    tokens = np.zeros(domain_T.size, np.int64)
    for domain, edges in enumerate(edges_CV):
        here = domain_T == domain
        tokens[here] = np.minimum(np.searchsorted(edges, draws_T[here]), n_types - 1)
    return tokens


def _features(
    rng: np.random.Generator,
    n_features: int,
    document_T: np.ndarray,
    token_T: np.ndarray,
    domain_T: np.ndarray,
) -> sp.csr_array:
    """Return true activations: half token sets, a third spans after a trigger, the rest domains."""
    fires = np.zeros((token_T.size, n_features), bool)
    kind_F = rng.random(n_features)
    for feature, kind in enumerate(kind_F):
        if kind < 0.5:
            fires[:, feature] = np.isin(token_T, rng.integers(5, 400, rng.integers(1, 9)))
        elif kind < 0.85:
            starts = np.isin(token_T, rng.integers(20, 400, 3))[:, None]
            fires[:, [feature]] = _spans(rng, starts, document_T, 8.0)
        else:
            starts = rng.random(token_T.size) < np.where(domain_T == rng.integers(6), 0.06, 0.001)
            fires[:, [feature]] = _spans(rng, starts[:, None], document_T, 8.0)
    return sp.csr_array(fires * rng.lognormal(0, 0.3, fires.shape))


def _spans(
    rng: np.random.Generator, starts_TF: np.ndarray, document_T: np.ndarray, length: float
) -> np.ndarray:
    """Return firings that go on from each start for a geometric length, not beyond the document."""
    row_T1 = np.arange(document_T.size)[:, None]
    until_TF = np.where(starts_TF, row_T1 + rng.geometric(1 / length, starts_TF.shape), 0)
    ends_T = np.searchsorted(document_T, document_T, side="right")
    until_TF = np.maximum.accumulate(np.minimum(until_TF, ends_T[:, None]), axis=0)
    return until_TF > row_T1


def _smooth(noise_TE: np.ndarray, memory: float) -> np.ndarray:
    """Return a stationary AR(1) series of unit variance with this correlation length."""
    keep = np.exp(-1 / memory) if memory else 0.0
    fresh = np.sqrt(1 - keep**2)
    series = np.empty_like(noise_TE)
    state = noise_TE[0]
    for row, noise in enumerate(noise_TE):
        state = keep * state + fresh * noise
        series[row] = state
    return series


def _routers(
    rng: np.random.Generator, n_layers: int, n_experts: int, direction_FM: np.ndarray
) -> np.ndarray:
    """Return router rows that each hold the directions of 6 % of the features, and noise."""
    n_features, width = direction_FM.shape
    written_LEF = rng.random((n_layers, n_experts, n_features)) < 0.06
    strength_LEF = written_LEF * rng.uniform(0.5, 2.0, written_LEF.shape)
    return strength_LEF @ direction_FM + rng.normal(size=(n_layers, n_experts, width)) / width**0.5


def _seen(rng: np.random.Generator, true_TF: sp.csr_array) -> sp.csr_array:
    """Return what the dictionary sees: 15 % of firings missed, 5 % more that are false, noisy z."""
    true = true_TF.tocoo()
    n_false = true.nnz // 20
    kept = rng.random(true.nnz) > 0.15
    row = np.concatenate([true.row[kept], rng.integers(true.shape[0], size=n_false)])
    column = np.concatenate([true.col[kept], true.col[rng.integers(true.nnz, size=n_false)]])
    data = np.concatenate([true.data[kept], np.ones(n_false)]) * rng.lognormal(0, 0.2, row.size)
    seen = sp.csr_array((data, (row, column)), shape=true.shape)
    seen.sum_duplicates()
    return seen.astype(np.float32)


def _turned(rng: np.random.Generator, direction_FM: np.ndarray, cosine: float) -> np.ndarray:
    """Return directions turned at random so that their cosine with the true ones is `cosine`."""
    other = rng.normal(size=direction_FM.shape)
    other -= (other * direction_FM).sum(1, keepdims=True) * direction_FM
    return cosine * direction_FM + np.sqrt(1 - cosine**2) * _unit(other)


def _effects(
    true_TF: sp.csr_array,
    direction_FM: np.ndarray,
    reads_LEM: np.ndarray,
    logits_TLE: np.ndarray,
    top_k: int,
) -> np.ndarray:
    """Return how much removing each feature lowers the share of its tokens choosing each expert."""
    n_layers, n_experts, _ = reads_LEM.shape
    columns = true_TF.tocsc()
    effect = np.zeros((n_layers, direction_FM.shape[0], n_experts))
    for feature, direction in enumerate(direction_FM):
        part = slice(*columns.indptr[feature : feature + 2])
        rows, z = columns.indices[part], columns.data[part]
        with_f = logits_TLE[rows]
        without_f = with_f - z[:, None, None] * (reads_LEM @ direction)
        change = _is_chosen(with_f, top_k).astype(float) - _is_chosen(without_f, top_k)
        effect[:, feature] = change.mean(0) if rows.size else 0.0
    return effect


def _is_chosen(logits_TLE: np.ndarray, top_k: int) -> np.ndarray:
    least = np.partition(logits_TLE, -top_k, axis=-1)[..., -top_k, None]
    return logits_TLE >= least
