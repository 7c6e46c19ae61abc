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


class Labelled(NamedTuple):
    """A feature with its description and the score of that description."""

    feature: int
    explanation: Explanation
    score: Score
    null: Score | None = None
    """What the description scores on another feature of like frequency, where that was measured"""


class Labeller(Protocol):
    """Whatever describes features and scores its descriptions."""

    name: str
    """Who says so; stands in every row of features.parquet."""

    def label(self, features: Sequence[int]) -> list[Labelled]:
        """Return each feature with description and score, in the given order."""
        ...
