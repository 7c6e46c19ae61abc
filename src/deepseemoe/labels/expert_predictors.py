"""What says, without a language model, which tokens are sent to which expert of a layer.

`rule`      the best executable rule of the offline labeller, "sent to the expert" taken for firing
`features`  one of the features that call the expert fires
`unigram`   a look-up: the share of each token's occurrences that the expert was sent
`always`    every token; its F1 is what prevalence alone gives

Rules and look-up are made from the explaining documents and run on the others. Features were chosen
by the map, which saw all test documents, so that `features` is not wholly held out.

Axes: T tokens, E experts, F features, V vocabulary.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse

from deepseemoe.labels.counts import Firing
from deepseemoe.labels.expert_scores import NEGATIVES, POSITIVES
from deepseemoe.labels.expert_text import RoutedText
from deepseemoe.labels.reading import BoolArray, Reading
from deepseemoe.labels.rules import Rule

SHRINK = 2.0
"""Occurrences at the expert's share of all tokens that are added to those of each token."""


def by_rules(rules: Sequence[Rule | None], reading: Reading) -> BoolArray:
    """Return (T, E): where the rule of each expert applies; nowhere without one."""
    said_TE = np.zeros((len(reading.token_ids), len(rules)), bool)
    for expert, rule in enumerate(rules):
        if rule is not None:
            said_TE[:, expert] = rule.applies(reading)
    return said_TE


def by_features(text: RoutedText, features: Mapping[int, Sequence[int]], n: int) -> BoolArray:
    """Return (T, E) for n experts: where one of each expert's features fires."""
    columns = [np.searchsorted(text.features, features.get(expert, ())) for expert in range(n)]
    rows = np.concatenate([*columns, np.zeros(0)]).astype(np.int64)
    owners = np.repeat(np.arange(n), [len(column) for column in columns])
    shape = (len(text.features), n)
    calls_FE = sparse.csr_array((np.ones(len(rows), np.float32), (rows, owners)), shape=shape)
    fires_TF = text.features_TF.copy()
    fires_TF.data = (fires_TF.data > 0).astype(np.float32)
    return (fires_TF @ calls_FE).toarray() > 0


def by_unigram(fitted: Reading, routed: Firing, reading: Reading) -> BoolArray:
    """Return (T, E): where the token is one that was sent to the expert often enough.

    The least share that counts is the one with the highest F1 at 15 positives and 85 negatives in
    the explaining documents, each occurrence judged by the others of its token.
    """
    n_vocabulary = len(fitted.vocabulary.texts)
    n_V = np.bincount(fitted.token_ids[fitted.is_valid], minlength=n_vocabulary)
    said_TE = np.zeros((len(reading.token_ids), routed.n_features), bool)
    for expert in range(routed.n_features):
        tokens = fitted.token_ids[routed.places_of(expert)]
        hits_V = np.bincount(tokens, minlength=n_vocabulary)
        said_TE[:, expert] = look_up(hits_V, n_V)[reading.token_ids]
    return said_TE


def look_up(hits_V: np.ndarray, n_V: np.ndarray) -> BoolArray:
    """Return (V,): the tokens that the look-up sends to an expert.

    `hits_V` of each token's `n_V` occurrences were sent to it.
    """
    n_positive, n_negative = hits_V.sum(), (n_V - hits_V).sum()
    if not n_positive or not n_negative:
        return np.zeros(len(n_V), bool)
    density = n_positive / n_V.sum()
    least = _best_threshold(hits_V, n_V, density)
    share_V = (hits_V + SHRINK * density) / (n_V + SHRINK)
    return share_V >= least


def _best_threshold(hits_V: np.ndarray, n_V: np.ndarray, density: float) -> float:
    """Return the share from which a token counts, by occurrences judged by the others."""
    is_hit, is_miss = hits_V > 0, n_V > hits_V
    others = np.maximum(n_V - 1, 0) + SHRINK
    share = np.concatenate(
        [
            (hits_V[is_hit] - 1 + SHRINK * density) / others[is_hit],
            (hits_V[is_miss] + SHRINK * density) / others[is_miss],
        ]
    )
    n_found = np.concatenate([hits_V[is_hit], np.zeros(is_miss.sum())])
    n_alarms = np.concatenate([np.zeros(is_hit.sum()), (n_V - hits_V)[is_miss]])
    order = np.argsort(-share, kind="stable")
    recall = np.cumsum(n_found[order]) / n_found.sum()
    alarm = np.cumsum(n_alarms[order]) / n_alarms.sum()
    f1 = 2 * POSITIVES * recall / (POSITIVES * (1 + recall) + NEGATIVES * alarm)
    share = share[order]
    f1[:-1][share[1:] == share[:-1]] = -1  # shares that are equal stand together
    return float(share[f1.argmax()])
