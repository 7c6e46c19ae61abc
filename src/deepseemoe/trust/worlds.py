"""The first family of planted worlds: features that add up, read by linear routers.

Documents are Zipf tokens in domains. Features are of three sorts: half are token sets, a third
spans after a trigger token, the rest bursts of a domain. The residual is the sum of the active
features' directions, and routers take the top k of a linear read-out. A dictionary sees the
features imperfectly: its directions are turned, some firings are missed and some are false.

Axes: T tokens, D documents, F features, L layers, E experts, M width, C domains, V token types.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy.sparse as sp

from deepseemoe.runtime.seeds import generator
from deepseemoe.trust.world import World, lasting, turned, unit, with_truth

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "easy": {"cosine": 0.95, "missed": 0.03, "false": 0.01},
        "realistic": {},
        "hard": {"cosine": 0.6, "imbalance": 2.0},
    }
)


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
    missed: float = 0.15,
    false: float = 0.05,
    imbalance: float = 0.0,
    indirect: float = 0.0,
) -> World:
    """Return a planted world: realistic as it is, hard with cosine .6 and imbalance 2.

    `cosine` is how well the dictionary knows directions, `missed` and `false` are shares of
    firings, `imbalance` is the spread of the experts' biases, `indirect` the size of a second path
    (as attention has one) from the residual to the router, which the map by weights cannot see.
    """
    rng = generator(seed, "planted world")
    document_T = np.repeat(np.arange(n_documents), lengths(rng, n_documents))
    domain_D = rng.integers(6, size=n_documents)
    token_T = _tokens(rng, domain_D[document_T])
    true_TF, is_token_F = _features(rng, n_features, document_T, token_T, domain_D[document_T])
    direction_FM = unit(rng.normal(size=(n_features, width)))
    residual_TM = true_TF @ direction_FM + 0.1 * rng.normal(size=(token_T.size, width))
    router_LEM = _routers(rng, n_layers, n_experts, direction_FM)
    paths_MM = np.eye(width) + indirect * rng.normal(size=(width, width)) / width**0.5
    bias_LE = imbalance * rng.normal(size=(n_layers, n_experts))
    unrouted = np.zeros((token_T.size, n_layers, top_k))
    planted = World(
        document_T,
        token_T,
        domain_D,
        _seen(rng, true_TF, missed=missed, false=false),
        unrouted,
        unrouted,
        n_experts,
        decoder_FM=turned(rng, direction_FM, cosine, np.zeros_like(direction_FM)),
        router_LEM=router_LEM,
        residual_TM=residual_TM @ paths_MM.T,
        paths_MM=paths_MM,
        bias_LE=bias_LE,
        is_token_F=is_token_F,
    )
    return with_truth(planted, true_TF, direction_FM)


def lengths(rng: np.random.Generator, n_documents: int) -> np.ndarray:
    """Return tokens of each document (D,): log-normal about 70, 15 to 400."""
    return np.clip(rng.lognormal(np.log(70), 0.6, n_documents), 15, 400).astype(int)


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
) -> tuple[sp.csr_array, np.ndarray]:
    """Return true activations, and which features are token sets: half of them.

    A third are spans after a trigger, the rest bursts of a domain.
    """
    fires = np.zeros((token_T.size, n_features), bool)
    kind_F = rng.random(n_features)
    for feature, kind in enumerate(kind_F):
        if kind < 0.5:
            fires[:, feature] = np.isin(token_T, rng.integers(5, 400, rng.integers(1, 9)))
        elif kind < 0.85:
            starts = np.isin(token_T, rng.integers(20, 400, 3))[:, None]
            fires[:, [feature]] = lasting(rng, starts, document_T, 8.0)
        else:
            starts = rng.random(token_T.size) < np.where(domain_T == rng.integers(6), 0.06, 0.001)
            fires[:, [feature]] = lasting(rng, starts[:, None], document_T, 8.0)
    return sp.csr_array(fires * rng.lognormal(0, 0.3, fires.shape)), kind_F < 0.5


def _routers(
    rng: np.random.Generator, n_layers: int, n_experts: int, direction_FM: np.ndarray
) -> np.ndarray:
    """Return router rows that each hold the directions of 6 % of the features, and noise."""
    n_features, width = direction_FM.shape
    written_LEF = rng.random((n_layers, n_experts, n_features)) < 0.06
    strength_LEF = written_LEF * rng.uniform(0.5, 2.0, written_LEF.shape)
    return strength_LEF @ direction_FM + rng.normal(size=(n_layers, n_experts, width)) / width**0.5


def _seen(
    rng: np.random.Generator, true_TF: sp.csr_array, *, missed: float, false: float
) -> sp.csr_array:
    """Return what the dictionary sees: firings missed, some more that are false, noisy z."""
    true = true_TF.tocoo()
    n_false = int(true.nnz * false)
    kept = rng.random(true.nnz) > missed
    row = np.concatenate([true.row[kept], rng.integers(true.shape[0], size=n_false)])
    column = np.concatenate([true.col[kept], true.col[rng.integers(true.nnz, size=n_false)]])
    data = np.concatenate([true.data[kept], np.ones(n_false)]) * rng.lognormal(0, 0.2, row.size)
    seen = sp.csr_array((data, (row, column)), shape=true.shape)
    seen.sum_duplicates()
    return seen.astype(np.float32)
