"""Routers of any size whose specialisation is planted, and their counts as the stages make them.

A token of group g, with probability `strength`, draws its top_k experts among the experts of its
group (experts are shared out evenly), else among all. So the group's choices fall on the same share
of the experts whatever n_experts and top_k are. Documents have whims of their own, that no group
explains: the tokens of a document prefer a random half of the experts.
"""

import numpy as np

from deepseemoe.runtime.seeds import generator


def route(groups_T, documents_T, *, n_groups, n_experts, top_k, strength, whim=0.5, seed=0):
    """Return the chosen experts of each token (T, K)."""
    rng = generator(seed, "routers", n_experts, top_k)
    score_TE = rng.random((groups_T.size, n_experts))
    preferred_DE = rng.random((documents_T.max() + 1, n_experts)) < 0.5
    score_TE += whim * rng.random(groups_T.size)[:, None] * preferred_DE[documents_T]
    own_TE = np.arange(n_experts) % n_groups == groups_T[:, None]
    score_TE += 10 * own_TE * (rng.random(groups_T.size) < strength)[:, None]
    return np.argsort(-score_TE, axis=1)[:, :top_k]


def chosen(ids_TK, n_experts):
    """Return whether each expert is chosen (T, E)."""
    table_TE = np.zeros((len(ids_TK), n_experts))
    np.put_along_axis(table_TE, ids_TK, 1.0, axis=1)
    return table_TE


def text(n_groups, n_documents=40, n_tokens=100):
    """Return group and document of each token: every document is of one group."""
    documents_T = np.repeat(np.arange(n_groups * n_documents), n_tokens)
    return documents_T % n_groups, documents_T


def shares_by_group(chosen_TE, groups_T, documents_T, n_draws=200, seed=0):
    """Return share (C, E) and the standard error from documents drawn again, as `domains` has."""
    n_documents = documents_T.max() + 1
    counts_DE = np.zeros((n_documents, chosen_TE.shape[1]))
    np.add.at(counts_DE, documents_T, chosen_TE)
    n_D = np.bincount(documents_T)
    group_D = np.zeros(n_documents, int)
    group_D[documents_T] = groups_T
    weights_BD = generator(seed, "draws").poisson(1.0, (n_draws, n_documents))
    shares, errors = [], []
    for group in np.unique(group_D):
        own = group_D == group
        draws = weights_BD[:, own] @ counts_DE[own] / (weights_BD[:, own] @ n_D[own])[:, None]
        shares.append(counts_DE[own].sum(0) / n_D[own].sum())
        lo, hi = np.quantile(draws, (0.025, 0.975), axis=0)
        errors.append((hi - lo) / 3.92)
    return np.array(shares), np.array(errors)
