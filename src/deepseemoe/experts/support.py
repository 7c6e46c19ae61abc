"""How often and how widely features fire, and which of them that is enough to test.

Axes: F features.
"""

from typing import NamedTuple

import numpy as np

from deepseemoe.config import ExpertsConfig
from deepseemoe.experts.documents import DocumentStream


class Firings(NamedTuple):
    """On how many tokens, in how many documents and how strongly in sum each feature fires."""

    tokens_F: np.ndarray
    documents_F: np.ndarray
    activation_F: np.ndarray

    @property
    def mean_activation_F(self) -> np.ndarray:
        """Mean activation where a feature fires; 0 where it never does."""
        return self.activation_F / np.maximum(self.tokens_F, 1)


def count_firings(text: DocumentStream) -> Firings:
    """Return how often, how widely and how strongly every feature fires."""
    tokens, documents = np.zeros((2, text.d_dict), np.int64)
    activation = np.zeros(text.d_dict)
    for block in text.blocks():
        columns = block.features_TF.tocsc()
        document_T = text.documents.between(block.start, block.stop)
        column = np.repeat(np.arange(text.d_dict), np.diff(columns.indptr))
        key = column * (document_T[-1] + 1) + document_T[columns.indices]
        opens = np.flatnonzero(np.diff(key, prepend=-1))
        tokens += np.diff(columns.indptr)
        documents += np.bincount(column[opens], minlength=text.d_dict)
        activation += np.bincount(column, columns.data.astype(np.float64), text.d_dict)
    return Firings(tokens, documents, activation)


def supported_features(config: ExpertsConfig, firings: Firings) -> np.ndarray:
    """Return the ids of features that fire on enough tokens, in enough documents."""
    is_wide = firings.documents_F >= config.min_documents
    return np.flatnonzero((firings.tokens_F >= config.min_tokens) & is_wide)
