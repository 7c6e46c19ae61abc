"""Embedding: whether contexts with the feature lie nearer to the description than others.

No language model judges, so it costs little. The area under the curve needs no threshold; for the
balanced accuracy, contexts count as having the feature that are among the nearest, as many as do.
"""

from collections import Counter

import numpy as np
from scipy.stats import rankdata

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.question import Asker, Unanswered
from deepseemoe.labels.contexts import FeatureContexts, spread
from deepseemoe.labels.explanation import Score
from deepseemoe.labels.scorers.judging import Item, Judged, shuffled, too_few


async def score_embedding(
    asker: Asker,
    label: str,
    contexts: FeatureContexts,
    config: LabelsConfig,
    random: np.random.Generator,
) -> Score:
    """Return how well nearness to the description finds contexts of the feature."""
    items = [Item(one.text, True, one.doc_id) for one in spread(contexts.active, config.n_judged)]
    items += [Item(one.text, False, one.doc_id) for one in spread(contexts.random, config.n_judged)]
    items = shuffled(items, random)  # of equally near ones, no class comes first
    truth = np.array([item.truth for item in items], bool)
    if len(set(truth.tolist())) < 2:
        return too_few(
            "embedding", f"{truth.sum()} held-out contexts with it, {(~truth).sum()} without"
        )
    try:
        vectors = await asker.embed([label, *(item.text for item in items)], purpose="embedding")
    except Unanswered as error:
        return Judged([], [], Counter({error.status: len(items)})).score("embedding")
    nearness = _cosines(np.asarray(vectors, np.float64))
    order = np.argsort(-nearness, kind="stable")
    said = np.zeros(len(items), bool)
    said[order[: truth.sum()]] = True
    found = Judged(items, said.tolist(), Counter()).score("embedding")
    return found._replace(auroc=auroc(nearness, truth))


def auroc(values: np.ndarray, truth: np.ndarray) -> float:
    """Return how often a positive has a higher value than a negative; ties count half."""
    n_positive, n_negative = int(truth.sum()), int((~truth).sum())
    ranks = rankdata(values)
    above = ranks[truth].sum() - n_positive * (n_positive + 1) / 2
    return float(above / (n_positive * n_negative))


def _cosines(vectors: np.ndarray) -> np.ndarray:
    """Return the cosine of the first vector with each of the others."""
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    unit = vectors / lengths
    return unit[1:] @ unit[0]
