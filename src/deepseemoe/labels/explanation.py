"""What a labeller says about a feature, and the interface that all labellers share."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Explanation(NamedTuple):
    """A description of a feature."""

    label: str
    """One line for people."""
    kind: str
    """What sort of description; see the labeller."""
    detail: str
    """What the label leaves out: the executable rule as JSON, or the reasons of a model."""
    status: str = "labelled"
    """Whether there is one to be used: see the column of features.parquet"""
    reason: str = ""
    """Why not, in one line; empty where labelled"""


class Score(NamedTuple):
    """How well a description tells where the feature fires, on held-out documents.

    Balanced accuracy is the mean of the shares of positives and of negatives that are told
    rightly; chance is 0.5. It is None, as is its interval, where there is nothing to judge by.
    """

    scorer: str
    n_positive: int
    n_negative: int
    balanced_accuracy: float | None
    lo: float | None
    hi: float | None
    n_failed: int = 0
    """Items that the scorer could not judge; they are in neither count."""
    status: str = "scored"
    reason: str = ""
    auroc: float | None = None
    """Of the scorer `embedding`: how often a context with the feature ranks above one without"""
    correlation: float | None = None
    """Of the scorer `simulation`: predicted with true activations"""


class Labelled(NamedTuple):
    """A feature with its description and the scores of that description."""

    feature: int
    explanation: Explanation
    scores: tuple[Score, ...] = ()
    nulls: tuple[Score | None, ...] = ()
    """For each score, what the description gets on another feature of like frequency, where that
    was measured"""


class Labeller(Protocol):
    """Whatever describes features and scores its descriptions."""

    name: str
    """Who says so; stands in every row of features.parquet."""

    def label(self, features: Sequence[int]) -> list[Labelled]:
        """Return each feature with description and scores, in the given order."""
        ...
