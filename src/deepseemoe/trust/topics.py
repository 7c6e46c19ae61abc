"""The second family of planted worlds, which shares no generator with the first.

Documents wander through topics (a hidden Markov chain with a taste of each document), and repeat
their own words. Features are token sets, pairs of neighbouring tokens, or thresholds of slow fields
that share factors, so they fire together. The residual also holds token embeddings; an RMS norm
stands before the routers, whose rows both call and avoid features, and a bias moves the choice but
not the gate weights. The dictionary misses weak firings first, fires on a feature's companion too,
and its directions lean towards it; every fourth feature of the residual is not in it at all.

Axes: T tokens, D documents, F features, L layers, E experts, M width, C topics, V token types,
H hidden factors.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from deepseemoe.runtime.seeds import generator
from deepseemoe.trust.world import World, smooth, turned, unit, with_truth

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "easy": {"cosine": 0.95, "missed": 0.03, "leaks": 0.01},
        "realistic": {},
        "hard": {"cosine": 0.6, "imbalance": 1.0},
    }
)
N_TOPICS, N_TYPES, N_FACTORS = 8, 500, 12


class _Text(NamedTuple):
    document_T: np.ndarray
    token_T: np.ndarray
    topic_T: np.ndarray


def world(
    seed: int,
    *,
    n_documents: int = 250,
    n_features: int = 240,
    n_unseen: int = 80,
    n_experts: int = 24,
    top_k: int = 4,
    n_layers: int = 1,
    width: int = 80,
    cosine: float = 0.85,
    missed: float = 0.15,
    leaks: float = 0.05,
    imbalance: float = 0.3,
) -> World:
    """Return a planted world: realistic as it is, hard with cosine .6 and imbalance 1.

    `n_unseen` features of the residual are not in the dictionary. `missed` and `leaks` are shares
    of firings: not seen, and seen of a companion as well;
    `imbalance` is the spread of biases in units of the scores' own.
    """
    rng = generator(seed, "planted topics")
    text = _text(rng, n_documents)
    true_TF, is_token_F = _features(rng, text, n_features + n_unseen)
    direction_FM = unit(rng.normal(size=(n_features + n_unseen, width)))
    embedding_VM = 0.35 * rng.normal(size=(N_TYPES, width)) / width**0.5
    noise_TM = 0.35 * rng.normal(size=(text.token_T.size, width)) / width**0.5
    residual_TM = true_TF @ direction_FM + embedding_VM[text.token_T] + noise_TM
    residual_TM += 0.5 * unit(rng.normal(size=width))  # a constant, as trained residuals have
    router_LEM = _routers(rng, n_layers, n_experts, direction_FM)
    true_TF, direction_FM = true_TF[:, :n_features], direction_FM[:n_features]
    companion_F = _companions(true_TF)
    unrouted = np.zeros((text.token_T.size, n_layers, top_k))
    planted = World(
        text.document_T,
        text.token_T,
        np.array([np.bincount(text.topic_T[text.document_T == d]).argmax()
                  for d in range(n_documents)]),
        _seen(rng, true_TF, companion_F, missed=missed, leaks=leaks),
        unrouted,
        unrouted,
        n_experts,
        decoder_FM=turned(rng, direction_FM, cosine, width**0.5 * direction_FM[companion_F] / 2),
        router_LEM=router_LEM,
        residual_TM=residual_TM,
        gain_M=rng.lognormal(0, 0.2, width),
        bias_LE=np.zeros((n_layers, n_experts)),
        is_token_F=is_token_F[:n_features],
    )  # fmt: skip
    scores_LTE = np.stack([planted.scores(residual_TM, n) for n in range(n_layers)])
    bias_LE = imbalance * scores_LTE.std() * rng.normal(size=(n_layers, n_experts))
    bias_LE -= scores_LTE.mean(1) * 0.7  # balancing has taken most of the load's differences away
    return with_truth(planted._replace(bias_LE=bias_LE), true_TF, direction_FM)


def _text(rng: np.random.Generator, n_documents: int) -> _Text:
    """Return tokens of topics that stay for 30 tokens on average, a sixth of them repeated."""
    n_T = 20 + rng.gamma(1.5, 40, n_documents).astype(int)
    document_T = np.repeat(np.arange(n_documents), n_T)
    taste_DC = rng.dirichlet(np.full(N_TOPICS, 0.4), n_documents)
    opens = np.diff(document_T, prepend=-1) > 0
    moves = opens | (rng.random(document_T.size) < 1 / 30)
    drawn = (rng.random((document_T.size, 1)) > np.cumsum(taste_DC, 1)[document_T]).sum(1)
    last = np.maximum.accumulate(np.where(moves, np.arange(document_T.size), 0))
    topic_T = np.minimum(drawn, N_TOPICS - 1)[last]
    zipf_V = 1 / (np.arange(N_TYPES) + 3.0) ** 0.9
    share_CV = zipf_V * rng.gamma(0.5, 2.0, (N_TOPICS, N_TYPES)) + 0.3 * zipf_V
    edges_CV = np.cumsum(share_CV / share_CV.sum(1, keepdims=True), axis=1)
    draws_T = rng.random(document_T.size)
    drawn = zip(topic_T, draws_T, strict=True)
    token_T = np.array([np.searchsorted(edges_CV[topic], draw) for topic, draw in drawn])
    token_T = np.minimum(token_T, N_TYPES - 1)
    start_T = np.maximum.accumulate(np.where(opens, np.arange(document_T.size), 0))
    back = rng.integers(1, 15, document_T.size)
    for row in np.flatnonzero(rng.random(document_T.size) < 1 / 6):
        token_T[row] = token_T[max(row - back[row], start_T[row])]
    return _Text(document_T, token_T, topic_T)


def _features(
    rng: np.random.Generator, text: _Text, n_features: int
) -> tuple[sp.csr_array, np.ndarray]:
    """Return true activations, and which features are token sets: 2 of 5.

    A fifth are pairs of neighbouring tokens, the rest thresholds of fields.
    """
    n_tokens = text.token_T.size
    before_T = np.where(np.diff(text.document_T, prepend=-1) > 0, -1, np.roll(text.token_T, 1))
    factors_TH = smooth(rng.normal(size=(n_tokens, N_FACTORS)), 6.0)
    factors_TH += 1.0 * rng.normal(size=(N_TOPICS, N_FACTORS))[text.topic_T]
    factors_TH += 0.7 * rng.normal(size=(text.document_T[-1] + 1, N_FACTORS))[text.document_T]
    kind_F, columns = rng.random(n_features), []
    for kind in kind_F:
        if kind < 0.4:
            strength = np.isin(text.token_T, rng.integers(2, 300, rng.integers(1, 7))) * 1.0
        elif kind < 0.6:
            sets = rng.random((2, N_TYPES)) < 0.15
            strength = (sets[0, text.token_T] & sets[1, before_T] & (before_T >= 0)) * 1.0
        else:
            load_H = rng.normal(size=N_FACTORS) * (rng.random(N_FACTORS) < 0.3)
            field_T = factors_TH @ load_H + smooth(rng.normal(size=(n_tokens, 1)), 3.0)[:, 0]
            field_T = (field_T - field_T.mean()) / field_T.std()
            over_T = field_T - np.quantile(field_T, 1 - np.exp(rng.uniform(*np.log([0.006, 0.06]))))
            strength = np.where(over_T > 0, 0.6 + over_T, 0.0)
        columns.append(strength * rng.gamma(6, 1 / 6, n_tokens))
    return sp.csr_array(np.stack(columns, axis=1)), kind_F < 0.4


def _companions(true_TF: sp.csr_array) -> np.ndarray:
    """Return with which other feature each one fires most, for its number of firings."""
    fires = (true_TF > 0).astype(np.float64)
    n_F = np.maximum(np.asarray(fires.sum(0)).ravel(), 1)
    together_FF = (fires.T @ fires).toarray() / np.sqrt(n_F[:, None] * n_F)
    np.fill_diagonal(together_FF, -1)
    return together_FF.argmax(1)


def _routers(
    rng: np.random.Generator, n_layers: int, n_experts: int, direction_FM: np.ndarray
) -> np.ndarray:
    """Return rows that call 5 % of the features and avoid 2 %, some of them much more."""
    shape = (n_layers, n_experts, direction_FM.shape[0])
    draw_LEF = rng.random(shape)
    sign_LEF = np.where(draw_LEF < 0.05, 1.0, np.where(draw_LEF < 0.07, -1.0, 0.0))
    rows = (sign_LEF * (0.4 + rng.exponential(0.8, shape))) @ direction_FM
    return rows + 0.6 * rng.standard_t(5, rows.shape) / rows.shape[-1] ** 0.5


def _seen(
    rng: np.random.Generator,
    true_TF: sp.csr_array,
    companion_F: np.ndarray,
    *,
    missed: float,
    leaks: float,
) -> sp.csr_array:
    """Return what the dictionary sees: weak firings missed first, companions' firings taken."""
    true = true_TF.tocoo()
    weak = np.exp(-true.data)
    kept = rng.random(true.nnz) > missed * weak / weak.mean()
    leaked = np.flatnonzero(rng.random(true.nnz) < leaks)
    row = np.concatenate([true.row[kept], true.row[leaked]])
    column = np.concatenate([true.col[kept], companion_F[true.col[leaked]]])
    data = np.concatenate([true.data[kept], 0.5 * true.data[leaked]])
    data = np.maximum(data + 0.15 * rng.normal(size=data.size), 0.05)
    seen = sp.csr_array((data, (row, column)), shape=true.shape)
    seen.sum_duplicates()
    return seen.astype(np.float32)
