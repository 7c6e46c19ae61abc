"""Paths of tokens through the experts of consecutive layers: joint counts, lift and information.

    n_ab = tokens that choose a at a layer and b at the next one with experts (all top_k² pairs)
    lift = n_ab n / (n_a n_b), 1 for independence
    information = I(expert; expert at the later layer) in bits, of one of top_k at random in each

Neighbouring tokens are alike, so independent layers still share bits by chance. The null turns the
later layer's tokens against the earlier one's, by a random part of the text: each layer keeps its
order and loses the other. OLMoE's code pairs equal ranks alone: `legacy.cross_layer_by_rank`.

Axes: T tokens in text order, K top_k, G groups of documents, E experts, X paths, P shifts.
"""

from typing import NamedTuple

import numpy as np

from deepseemoe.routing.arrays import check_routing, count_experts
from deepseemoe.routing.bootstrap import N_GROUPS, group_draws, lift_intervals
from deepseemoe.routing.coactivation import group_tokens
from deepseemoe.routing.counts import count_pairs, count_triples
from deepseemoe.routing.information import Corrected, corrected, mutual_information
from deepseemoe.runtime.seeds import generator


class CrossLayer(NamedTuple):
    """Pairs of an expert and one of a later layer (E, E), and what the layers share in bits.

    Lifts are NaN where one of two experts is never chosen; intervals need documents.
    """

    n_tokens_EE: np.ndarray
    p_later_given_first_EE: np.ndarray
    lift_EE: np.ndarray
    lift_lo_EE: np.ndarray
    lift_hi_EE: np.ndarray
    information: Corrected


class TopPaths(NamedTuple):
    """The paths over three layers that most tokens take, the most frequent first.

    `lift` is over three independent layers, `markov_lift` over a chain that forgets the first layer
    at the second: n_abc n_b / (n_ab n_bc).
    """

    experts_X3: np.ndarray
    n_tokens_X: np.ndarray
    share_X: np.ndarray
    lift_X: np.ndarray
    markov_lift_X: np.ndarray


def cross_layer(
    ids_TK: np.ndarray,
    later_TK: np.ndarray,
    n_experts: int | None = None,
    *,
    document_T: np.ndarray | None = None,
    n_shifts: int = 99,
    seed: int = 0,
) -> CrossLayer:
    """Return how the experts of two layers go together; rows are tokens in text order.

    Raises ValueError where arrays do not fit together.
    """
    ids_TK, later_TK, n_experts = checked(ids_TK, later_TK, n_experts=n_experts)
    group_T = group_tokens(document_T, len(ids_TK))
    pairs_GEE = count_pairs(ids_TK, later_TK, n_experts, group_T=group_T, n_groups=N_GROUPS)
    nulls_PEE = shifted_pairs([ids_TK], [later_TK], n_experts, n_shifts=n_shifts, seed=seed)
    tokens_G = np.bincount(group_T, minlength=N_GROUPS)
    top_ks = ids_TK.shape[1], later_TK.shape[1]
    return cross_layer_of(pairs_GEE, tokens_G, nulls_PEE, top_ks=top_ks, seed=seed)


def top_paths(
    first_TK: np.ndarray,
    second_TK: np.ndarray,
    third_TK: np.ndarray,
    n_experts: int | None = None,
    *,
    n_paths: int = 20,
) -> TopPaths:
    """Return the `n_paths` paths over three layers that most tokens take."""
    *layers, n_experts = checked(first_TK, second_TK, third_TK, n_experts=n_experts)
    n_EEE, (first, second, third) = count_triples(*layers, n_experts), layers
    ab_EE, bc_EE = (count_pairs(*two, n_experts)[0] for two in ((first, second), (second, third)))
    of_E = [np.bincount(ids.ravel(), minlength=n_experts) for ids in layers]
    return top_paths_of(n_EEE, ab_EE, bc_EE, of_E, n_tokens=len(first), n_paths=n_paths)


def checked(*layers: np.ndarray, n_experts: int | None) -> tuple:
    """Return the layers' ids as arrays and the number of experts of the largest."""
    ids = [np.asarray(one) for one in layers]
    for one in ids:
        check_routing(one)
    if len({len(one) for one in ids}) > 1:
        raise ValueError(
            f"layers have {', '.join(str(len(one)) for one in ids)} tokens; expected the same ones"
        )
    return *ids, max(count_experts(one, n_experts) for one in ids)


def shifted_pairs(
    shards: list[np.ndarray],
    later_shards: list[np.ndarray],
    n_experts: int,
    *,
    n_shifts: int,
    seed: int,
) -> np.ndarray:
    """Return joint counts with each shard's later layer turned by a random part of it (P, E, E)."""
    rng = generator(seed, "turn later layer")
    nulls_PEE = np.zeros((n_shifts, n_experts, n_experts), np.int64)
    for joint_EE in nulls_PEE:
        turn = rng.random()
        for ids_TK, later_TK in zip(shards, later_shards, strict=True):
            # Never by less than a twentieth of the shard: what is near is alike.
            by = int(len(ids_TK) * (0.05 + 0.9 * turn))
            joint_EE += count_pairs(ids_TK, np.roll(later_TK, by, axis=0), n_experts)[0]
    return nulls_PEE


def cross_layer_of(
    pairs_GEE: np.ndarray,
    tokens_G: np.ndarray,
    nulls_PEE: np.ndarray,
    *,
    top_ks: tuple[int, int],
    seed: int,
) -> CrossLayer:
    """Return the measures of two layers from their joint counts in groups and under the null."""
    n_groups, n_experts = pairs_GEE.shape[:2]
    both_EE = pairs_GEE.sum(0)
    # A token that chooses a is counted once for each expert of its other layer.
    first_GE, later_GE = pairs_GEE.sum(2) / top_ks[1], pairs_GEE.sum(1) / top_ks[0]
    first_E, later_E = first_GE.sum(0), later_GE.sum(0)
    flat = (n_groups, n_experts * n_experts)
    low, high = lift_intervals(
        pairs_GEE.reshape(flat),
        np.repeat(first_GE, n_experts, axis=1),
        np.tile(later_GE, n_experts),
        tokens_G,
        seed=seed,
    )
    draws_BG = group_draws(tokens_G, seed)
    bits_B = [mutual_information(np.tensordot(draw_G, pairs_GEE, 1)) for draw_G in draws_BG]
    information = corrected(
        mutual_information(both_EE), nulls_P=mutual_information(nulls_PEE), draws_P=np.array(bits_B)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        p_EE = both_EE / first_E[:, None]
        lift_EE = p_EE * tokens_G.sum() / later_E
    is_pair = np.outer(first_E > 0, later_E > 0)
    shaped = (part.reshape(n_experts, n_experts) for part in (low, high))
    floats = (np.where(is_pair, part, np.nan) for part in (p_EE, lift_EE, *shaped))
    return CrossLayer(both_EE, *floats, information)


def top_paths_of(
    n_EEE: np.ndarray,
    first_EE: np.ndarray,
    second_EE: np.ndarray,
    of_E: list[np.ndarray],
    *,
    n_tokens: int,
    n_paths: int,
) -> TopPaths:
    """Return the most frequent paths from the counts of triples, pairs and single experts."""
    counts = n_EEE.ravel()
    n_found = min(n_paths, int((counts > 0).sum()))
    top = np.argsort(-counts, kind="stable")[:n_found]
    a, b, c = np.unravel_index(top, n_EEE.shape)
    n_X = counts[top].astype(np.float64)
    singles = of_E[0][a] * (of_E[1][b] / n_tokens) * (of_E[2][c] / n_tokens)
    return TopPaths(
        np.stack([a, b, c], axis=1),
        counts[top],
        n_X / n_tokens,
        n_X / singles,
        n_X * of_E[1][b] / (first_EE[a, b] * second_EE[b, c].astype(np.float64)),
    )
