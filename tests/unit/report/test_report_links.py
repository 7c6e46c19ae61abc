"""What the page chooses to show: the best evidence, each label once."""

import numpy as np
import pytest

from deepseemoe.names import ExpertId, Window
from deepseemoe.report.links import (
    clear_features,
    links_by_expert,
    merge_clear,
    merge_links,
    most_selective,
)
from deepseemoe.report.maps import KEPT_COLUMNS, Map
from deepseemoe.report.names import Trained
from deepseemoe.report.views import Accuracy

ONE, OTHER = Trained("crosscoder", Window(0, 1)), Trained("crosscoder", Window(1, 2))


def found(rows, labels):
    """Return a map from (expert, feature, lor_lo, rank); the log odds ratio is lor_lo + 1."""
    expert, feature, lor_lo, rank = np.array(rows, dtype=float).reshape(-1, 4).T
    columns = {name: np.zeros(len(expert)) for name in KEPT_COLUMNS}
    columns |= {"expert": expert, "feature": feature, "rank": rank}
    columns |= {"lor": lor_lo + 1, "lor_lo": lor_lo, "lor_hi": lor_lo + 2}
    return Map(columns, len(expert), labels, 4)


LABELS = {1: "one", 2: "two", 3: "one", 4: "four"}


def test_links_of_an_expert_follow_the_rank_of_the_map():
    links = links_by_expert(ONE, found([(0, 1, 2, 2), (0, 2, 1, 1), (3, 4, 1, 1)], LABELS), 5)
    assert [link.feature[1] for link in links[ExpertId(0, 0)]] == [2, 1]
    assert [link.label for link in links[ExpertId(0, 3)]] == ["four"]


def test_an_avoided_expert_is_not_linked():
    assert links_by_expert(ONE, found([(0, 1, -3, 1)], LABELS), 5) == {}


def test_a_label_is_shown_once_for_an_expert():
    links = links_by_expert(ONE, found([(0, 1, 2, 1), (0, 3, 1, 2), (0, 4, 1, 3)], LABELS), 2)
    assert [link.feature[1] for link in links[ExpertId(0, 0)]] == [1, 4]


def test_maps_are_merged_by_rank_then_by_the_lower_end():
    first = links_by_expert(ONE, found([(0, 1, 2, 1), (0, 4, 9, 2)], LABELS), 5)
    second = links_by_expert(OTHER, found([(0, 2, 3, 1)], LABELS), 5)
    merged = merge_links([first, second], 5)[ExpertId(0, 0)]
    assert [link.feature for link in merged] == [(OTHER, 2), (ONE, 1), (ONE, 4)]


def test_the_most_selective_expert_has_the_surest_links():
    rows = [(0, 1, 5, 1), (1, 1, 3, 1), (1, 2, 3, 2), (2, 4, 1, 1)]
    links = links_by_expert(ONE, found(rows, LABELS), 5)
    assert most_selective(links, 2) == [ExpertId(0, 1), ExpertId(0, 0)]


def test_a_map_without_kept_pairs_links_nothing():
    assert links_by_expert(ONE, found([], LABELS), 5) == {}
    assert most_selective({}, 3) == []


def test_the_clearest_features_have_the_highest_lower_ends():
    accuracies = {1: Accuracy(0.9, 0.8, 1), 2: Accuracy(1, 0.7, 1), 3: Accuracy(1, 0.9, 1)}
    clear = clear_features(ONE, found([(0, 3, 1, 1)], LABELS), accuracies, 5)
    assert [one.feature[1] for one in clear] == [3, 2], "1 has the label of 3, and is less sure"
    assert [link.expert for link in clear[0].links] == [ExpertId(0, 0)]
    assert clear[1].links == []


@pytest.mark.parametrize("n", [1, 2])
def test_the_clearest_features_of_several_maps_are_merged(n):
    first = clear_features(ONE, found([], LABELS), {1: Accuracy(0.9, 0.8, 1)}, 5)
    second = clear_features(OTHER, found([], LABELS), {2: Accuracy(0.95, 0.9, 1)}, 5)
    merged = merge_clear([*first, *second], n)
    assert [one.feature for one in merged] == [(OTHER, 2), (ONE, 1)][:n]
