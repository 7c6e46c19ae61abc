"""The null of what features tell beyond the token: features of the same token elsewhere.

Each token takes the features of an occurrence of the same token in another document. All that the
token itself says of its features is kept, and all that its context says is lost.

Axes: T tokens, D documents.
"""

import numpy as np

from deepseemoe.runtime.seeds import generator

NO_PARTNER = -1


def partners(tokens_T: np.ndarray, documents_T: np.ndarray, *, seed: int) -> np.ndarray:
    """Return the place of each token's partner (T,), one to one; NO_PARTNER where there is none.

    Occurrences of a token stand in a circle, by documents in random order, and look ahead by the
    most occurrences that one document has. Where that is more than half of them, none has partners.
    """
    n_documents = int(documents_T.max(initial=-1)) + 1
    shuffled_D = generator(seed, "prediction", "partners").permutation(n_documents)
    order = np.lexsort((shuffled_D[documents_T], tokens_T))
    tokens, documents = tokens_T[order], documents_T[order]
    opens_token = np.diff(tokens, prepend=-2) != 0
    opens_run = opens_token | (np.diff(documents, prepend=-2) != 0)
    group_T, first = np.cumsum(opens_token) - 1, np.flatnonzero(opens_token)
    size = np.diff(np.append(first, tokens.size))
    run_starts = np.flatnonzero(opens_run)
    run_lengths = np.diff(np.append(run_starts, tokens.size))
    most = np.zeros(first.size, np.int64)
    np.maximum.at(most, group_T[run_starts], run_lengths)
    place = np.arange(tokens.size) - first[group_T] + most[group_T]
    ahead = order[first[group_T] + place % size[group_T]]
    partner_T = np.full(tokens.size, NO_PARTNER, np.int64)
    partner_T[order] = np.where(2 * most[group_T] <= size[group_T], ahead, NO_PARTNER)
    return partner_T
