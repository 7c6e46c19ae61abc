"""Densities and contexts against plain formulas: true peaks, distinct documents, nothing across."""

import numpy as np
import pytest
from feature_world import SEQUENCE, make_text
from scipy import sparse

from deepseemoe.config import FeaturesConfig
from deepseemoe.features.contexts import bounds, choose_contexts, find_peaks, n_random
from deepseemoe.features.density import measure_density
from deepseemoe.features.text import FeatureText

CONFIG = FeaturesConfig(context_before=6, context_after=3, n_top=5, n_quantiles=4)
WIDTH = 10
RANDOM_GROUP = 1 + CONFIG.n_quantiles


@pytest.fixture(scope="module")
def text():
    return make_text()


@pytest.fixture(scope="module")
def contexts(text):
    return choose_contexts(text, CONFIG, np.random.default_rng(0))


def planted(activations, *, doc_lengths):
    """Return a text with one feature; every document opens a segment."""
    n_tokens = sum(doc_lengths)
    doc_ids = np.repeat(np.arange(len(doc_lengths)), doc_lengths).astype(np.uint32)
    positions = np.concatenate([np.arange(length) for length in doc_lengths])
    dense = np.zeros((n_tokens, 1), np.float32)
    for place, value in activations.items():
        dense[place] = value
    numbers = np.arange(n_tokens, dtype=np.uint32)
    return FeatureText(sparse.csr_array(dense), numbers, doc_ids, positions, positions > 0)


def test_densities_match_the_plain_formulas(text):
    columns = measure_density(text)
    dense = text.matrix.toarray()
    assert (columns["feature"] == np.arange(12)).all()
    assert (columns["n_active"] == (dense > 0).sum(0)).all()
    np.testing.assert_allclose(columns["density"], (dense > 0).sum(0) / text.is_valid.sum())
    np.testing.assert_allclose(columns["max_activation"], dense.max(0))
    for feature in range(12):
        values = dense[:, feature]
        mean = values[values > 0].mean() if (values > 0).any() else 0
        np.testing.assert_allclose(columns["mean_activation"][feature], mean, rtol=1e-6)
        assert columns["n_documents"][feature] == len(np.unique(text.doc_ids[values > 0]))


def test_a_text_without_activations_has_zeros_and_no_contexts():
    text = planted({}, doc_lengths=[20])
    columns = measure_density(text)
    assert all((columns[name] == 0).all() for name in columns if name != "feature")
    assert not len(choose_contexts(text, CONFIG, np.random.default_rng(0)).places)


def test_contexts_stay_in_the_segment_of_their_peak_and_are_full_inside_it(text, contexts):
    first, last = bounds(text, contexts.places, CONFIG)
    for low, place, high in zip(first, contexts.places, last, strict=True):
        assert low <= place <= high
        assert len(set(text.doc_ids[low : high + 1])) == 1
        assert low // SEQUENCE == high // SEQUENCE
        assert not (text.positions[low + 1 : high + 1] == 0).any()
        assert place - low == CONFIG.context_before or text.positions[low] == 0
        at_end = high + 1 == text.n_tokens or text.positions[high + 1] == 0
        assert high - place == CONFIG.context_after or at_end


def test_top_contexts_are_the_highest_peaks_of_distinct_documents(text, contexts):
    dense = text.matrix.toarray()
    for feature in range(11):
        mine = (contexts.features == feature) & (contexts.groups == 0)
        assert contexts.ranks[mine].tolist() == list(range(CONFIG.n_top))
        values = dense[contexts.places[mine], feature]
        highest = [dense[text.doc_ids == d, feature].max() for d in np.unique(text.doc_ids)]
        np.testing.assert_array_equal(values, np.sort(highest)[::-1][: CONFIG.n_top])


def test_second_contexts_of_a_document_come_only_after_every_other_document():
    text = planted({5: 9.0, 25: 8.0, 45: 7.0, 65: 1.0}, doc_lengths=[60, 20])
    one = CONFIG.model_copy(update={"n_top": 2, "n_per_quantile": 0})
    contexts = choose_contexts(text, one, np.random.default_rng(0))
    assert contexts.places[contexts.groups == 0].tolist() == [5, 65]
    more = one.model_copy(update={"n_top": 4})
    contexts = choose_contexts(text, more, np.random.default_rng(0))
    assert contexts.places[contexts.groups == 0].tolist() == [5, 25, 45, 65]


def test_peaks_of_a_feature_never_lie_in_each_others_context(text):
    peaks = find_peaks(text, width=WIDTH)
    segment = text.segment_of[peaks.places]
    same = (np.diff(peaks.features) == 0) & (np.diff(segment) == 0)
    assert (np.diff(peaks.places)[same] >= WIDTH).all()
    assert len(peaks.places) > 200


def test_every_activation_has_a_peak_as_strong_within_two_contexts(text):
    peaks = find_peaks(text, width=WIDTH)
    runs = text.runs
    for feature in range(11):
        mine = peaks.features == feature
        places, values = peaks.places[mine], peaks.values[mine]
        for entry in range(runs.starts[feature], runs.starts[feature + 1]):
            same = text.segment_of[places] == text.segment_of[runs.places[entry]]
            assert values[same].max() >= runs.values[entry] or (
                abs(places[same] - runs.places[entry]).min() < 3 * WIDTH
            )


def test_the_first_of_equal_neighbours_is_the_peak():
    text = planted({3: 2.0, 4: 2.0, 12: 2.0}, doc_lengths=[40])
    assert find_peaks(text, width=WIDTH).places.tolist() == [3]


def test_quantiles_rise_and_are_drawn_apart_from_the_top(text, contexts):
    dense = text.matrix.toarray()
    for feature in range(11):
        mine = contexts.features == feature
        active = mine & (contexts.groups < RANDOM_GROUP)
        assert len(set(contexts.places[active])) == active.sum()
        ranges = []
        for quantile in range(CONFIG.n_quantiles):
            places = contexts.places[mine & (contexts.groups == 1 + quantile)]
            assert len(places) == CONFIG.n_per_quantile
            values = dense[places, feature]
            assert values[0] >= values[-1]
            ranges.append((values.min(), values.max()))
        assert all(one[1] <= two[0] for one, two in zip(ranges, ranges[1:], strict=False))


def test_random_contexts_have_the_feature_off_everywhere(text, contexts):
    dense = text.matrix.toarray()
    mine = contexts.groups == RANDOM_GROUP
    first, last = bounds(text, contexts.places, CONFIG)
    for row in np.flatnonzero(mine):
        assert not dense[first[row] : last[row] + 1, contexts.features[row]].any()
        assert text.is_valid[contexts.places[row]]
    counts = np.bincount(contexts.features[mine], minlength=12)
    assert counts.tolist() == [n_random(CONFIG)] * 11 + [0]
    keys = contexts.features[mine] * text.n_tokens + contexts.places[mine]
    assert len(set(keys.tolist())) == mine.sum()


def test_a_feature_that_is_always_on_has_no_random_contexts():
    text = planted({place: 1.0 + place for place in range(1, 40)}, doc_lengths=[40])
    contexts = choose_contexts(text, CONFIG, np.random.default_rng(0))
    assert not (contexts.groups == RANDOM_GROUP).any()


def test_the_seed_alone_decides_which_contexts_are_drawn(text, contexts):
    again = choose_contexts(text, CONFIG, np.random.default_rng(0))
    other = choose_contexts(text, CONFIG, np.random.default_rng(1))
    assert all((one == two).all() for one, two in zip(contexts, again, strict=True))
    assert contexts.places.tolist() != other.places.tolist()
