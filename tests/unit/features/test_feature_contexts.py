"""Contexts from the stream against plain loops over the dense matrix (context_oracle)."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from context_oracle import Oracle
from feature_world import make_text, planted, write_shards

from deepseemoe.config import FeaturesConfig
from deepseemoe.features.contexts import HALVES, group_names, n_random
from deepseemoe.features.examples import find_contexts
from deepseemoe.features.halves import is_explaining
from deepseemoe.features.neighbours import nearest_rows
from deepseemoe.features.stream import FeatureStream

CONFIG = FeaturesConfig(
    context_before=6, context_after=3, n_top=5, n_quantiles=4, n_per_quantile=2, n_near=6
)
SCORING = [doc_id for doc_id in range(200) if not is_explaining(np.array([doc_id]))[0]]
EXPLAINING = [doc_id for doc_id in range(200) if is_explaining(np.array([doc_id]))[0]]


def directions(n_features):
    vectors = np.random.default_rng(1).standard_normal((n_features, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def collected(folder, text, *, config=CONFIG, seed=0, edges=None, run_chunks=8):
    """Return the contexts of a text as rows, and its densities."""
    stream = FeatureStream(write_shards(folder, text, edges=edges), run_chunks=run_chunks)
    nearest = nearest_rows(directions(text.d_dict), seed=0)
    activity, columns = find_contexts(stream, nearest, config, seed)
    names, rows = group_names(config), []
    for part in activity.contexts():
        ends = np.cumsum(part.lengths)
        for n, feature in enumerate(part.rows.features):
            group, half = names[part.rows.groups[n]], HALVES[part.rows.halves[n]]
            z = part.z_W[ends[n] - part.lengths[n] : ends[n]].tolist()
            place, first = int(part.rows.places[n]), int(part.first[n])
            rows.append((int(feature), half, group, int(part.ranks[n]), place, first, z))
    return rows, columns


def by_group(rows):
    """Return places by feature, half and group, in the order of ranks."""
    found = defaultdict(list)
    for feature, half, group, rank, place, *_ in rows:
        assert rank == len(found[feature, half, group])
        found[feature, half, group].append(place)
    return found


@pytest.fixture(scope="module")
def text():
    return make_text(n_sequences=120, density=0.02)


@pytest.fixture(scope="module")
def oracle(text):
    return Oracle(text, CONFIG)


@pytest.fixture(scope="module")
def found(text, tmp_path_factory):
    return collected(tmp_path_factory.mktemp("shards"), text)


@pytest.fixture(scope="module")
def groups(found):
    return by_group(found[0])


def test_densities_match_the_plain_formulas(text, found):
    columns, dense = found[1], text.matrix.toarray()
    assert (columns["feature"] == np.arange(12)).all()
    assert (columns["n_active"] == (dense > 0).sum(0)).all()
    np.testing.assert_allclose(columns["density"], (dense > 0).sum(0) / text.is_valid.sum())
    np.testing.assert_array_equal(columns["max_activation"], dense.max(0))
    for feature in range(12):
        values = dense[:, feature].astype(np.float64)
        mean = values[values > 0].mean() if (values > 0).any() else 0
        np.testing.assert_allclose(columns["mean_activation"][feature], mean, rtol=1e-12)
        assert columns["n_documents"][feature] == len(np.unique(text.doc_ids[values > 0]))


def test_every_row_is_the_activations_around_its_peak_inside_its_segment(found, oracle):
    for feature, _, _, _, place, first, z in found[0]:
        assert (first, first + len(z)) == oracle.bounds(place)
        assert z == oracle.dense[first : first + len(z), feature].tolist()


def test_top_contexts_are_those_of_the_plain_loop(groups, oracle):
    for feature in range(11):
        for half in HALVES:
            assert groups[feature, half, "top"] == oracle.top(feature, half)


def test_quantiles_part_the_peaks_that_are_not_top_and_are_filled(groups, oracle):
    for feature in range(11):
        for half in HALVES:
            peaks, top = oracle.peaks(feature, half), oracle.top(feature, half)
            rest = sorted(value for place, value in peaks.items() if place not in top)
            for quantile in range(4):
                places = groups[feature, half, f"q{quantile}"]
                assert len(places) == CONFIG.n_per_quantile
                assert not set(places) & set(top)
                values = [peaks[place] for place in places]
                assert values == sorted(values, reverse=True)
                for value in values:
                    assert rest.index(value) * 4 // len(rest) == quantile


def test_contexts_without_the_feature_are_off_and_as_many_as_asked_for(groups, oracle):
    wanted = {"near": CONFIG.n_near, "neighbour": CONFIG.n_neighbour, "random": n_random(CONFIG)}
    assert wanted["random"] == 5 + 4 * 2
    for feature in range(11):
        for half in HALVES:
            for group, n in wanted.items():
                places = groups[feature, half, group]
                if (half, group) == ("explain", "random"):
                    assert not places
                    continue
                assert len(set(places)) == len(places) == n
                assert all(oracle.is_off(feature, place) for place in places)


def test_near_misses_are_the_features_own_tokens_of_that_half(groups, oracle, text):
    for feature in range(11):
        for half in HALVES:
            tokens = text.token_ids[groups[feature, half, "near"]].tolist()
            assert set(tokens) <= oracle.own_tokens(feature, half)


def test_neighbour_contexts_are_peaks_of_other_features_the_nearest_first(groups, oracle, text):
    cosine = directions(12) @ directions(12).T
    np.fill_diagonal(cosine, -2)
    for feature in range(11):
        nearest = [other for other in np.argsort(-cosine[feature]) if other != 11]
        for half in HALVES:
            places = groups[feature, half, "neighbour"]
            owners = [
                {other for other in nearest if place in oracle.peaks(other, half)}
                for place in places
            ]
            assert all(owners)
            ranks = [min(nearest.index(owner) for owner in own) for own in owners]
            assert max(ranks) <= 9


def test_no_document_is_in_both_halves_and_no_place_stands_twice(found, text):
    documents, places = defaultdict(set), Counter()
    for feature, half, _, _, place, *_ in found[0]:
        documents[half].add(int(text.doc_ids[place]))
        places[feature, place] += 1
    assert not documents["explain"] & documents["score"]
    assert len(documents["explain"]) > 20 < len(documents["score"])
    assert set(places.values()) == {1}


def test_a_silent_feature_has_no_contexts(found):
    assert {row[0] for row in found[0]} == set(range(11))


@pytest.mark.parametrize("edges", [[], [64], [1, 2, 3], [100, 1000, 5000, 7001]])
def test_where_shards_end_changes_nothing(text, found, tmp_path, edges):
    rows, columns = collected(tmp_path, text, edges=edges)
    assert rows == found[0]
    assert all((columns[name] == found[1][name]).all() for name in columns)


def test_where_runs_end_changes_nothing(text, found, tmp_path, monkeypatch):
    for size in (1, 7, 1000):
        monkeypatch.setattr("deepseemoe.features.stream.CHUNK", size)
        some = text if size > 1 else make_text(n_sequences=4)
        expected = (
            found[0] if size > 1 else collected(tmp_path / "whole", some, run_chunks=10**6)[0]
        )
        assert collected(tmp_path / str(size), some, run_chunks=1)[0] == expected


def test_the_seed_decides_what_is_drawn_and_not_what_is_top(text, found, tmp_path):
    other, one = by_group(collected(tmp_path, text, seed=1)[0]), by_group(found[0])
    same = [key for key in one if one[key] == other[key]]
    assert {group for _, _, group in same} == {"top"}


def test_the_first_blocks_of_features_are_chosen_as_all_at_once(text, found, tmp_path, monkeypatch):
    monkeypatch.setattr("deepseemoe.features.activity.BLOCK_FEATURES", 5)
    assert collected(tmp_path, text)[0] == found[0]


def test_second_contexts_of_a_document_come_only_after_every_other_document(tmp_path):
    activations = {5: 9.0, 25: 8.0, 45: 7.0, 65: 1.0}
    text = planted(activations, doc_lengths=[60, 20], doc_ids=EXPLAINING[:2])
    for n_top, places in ((2, [5, 65]), (4, [5, 25, 45, 65])):
        config = CONFIG.model_copy(update={"n_top": n_top, "n_per_quantile": 0})
        rows, _ = collected(tmp_path / str(n_top), text, config=config)
        assert by_group(rows)[0, "explain", "top"] == places


@pytest.mark.parametrize("order", [[1, 2, 3], [3, 2, 1], [2, 3, 1]])
def test_what_is_pushed_out_of_the_top_does_not_hang_on_the_order_of_the_text(tmp_path, order):
    """Three peaks in one document, then one in the next: the second of a document goes first."""
    activations = {20 * n + 5: float(value) for n, value in enumerate(order)} | {65: 0.5}
    text = planted(activations, doc_lengths=[60, 20], doc_ids=EXPLAINING[:2])
    for n_top in (1, 2, 3):
        config = CONFIG.model_copy(update={"n_top": n_top, "n_per_quantile": 0})
        rows, _ = collected(tmp_path / str(n_top), text, config=config)
        expected = Oracle(text, config).top(0, "explain")
        assert by_group(rows)[0, "explain", "top"] == expected


def test_the_first_of_equal_neighbours_is_the_peak(tmp_path):
    text = planted({3: 2.0, 4: 2.0, 12: 2.0}, doc_lengths=[40], doc_ids=EXPLAINING[:1])
    rows, _ = collected(tmp_path, text)
    assert by_group(rows)[0, "explain", "top"] == [3]


def test_a_feature_with_three_contexts_has_three_and_no_error(tmp_path):
    text = planted({5: 1.0, 25: 2.0, 65: 3.0}, doc_lengths=[60, 40], doc_ids=EXPLAINING[:2])
    groups = by_group(collected(tmp_path, text)[0])
    assert {key: places for key, places in groups.items() if places} == {
        (0, "explain", "top"): [65, 25, 5]
    }, "every token is of its own type, and no document is held out"


def test_a_feature_that_is_always_on_has_contexts_with_it_only(tmp_path):
    lengths = [40] * 20
    starts = np.arange(20) * 40
    activations = {s + n: 1.0 + n for s in starts for n in range(1, 40)}
    doc_ids = sorted(EXPLAINING[:10] + SCORING[:10])
    text = planted(activations, doc_lengths=lengths, doc_ids=doc_ids, token_ids=[7] * 800)
    rows, columns = collected(tmp_path, text)
    assert columns["density"] == 1
    assert {row[2] for row in rows} == {"top", "q0", "q1", "q2", "q3"}


def test_a_text_without_activations_has_zeros_and_no_contexts(tmp_path):
    rows, columns = collected(tmp_path, planted({}, doc_lengths=[20]))
    assert rows == []
    assert all((columns[name] == 0).all() for name in columns if name != "feature")


def test_a_dictionary_of_one_feature_has_no_neighbours(tmp_path):
    text = planted({5: 1.0}, doc_lengths=[60], doc_ids=SCORING[:1])
    groups = by_group(collected(tmp_path, text)[0])
    assert not groups[0, "score", "neighbour"]
    assert len(groups[0, "score", "random"]) == n_random(CONFIG)


def test_rare_near_misses_are_found_among_many_occurrences(tmp_path):
    """One token, on which the feature fires nine times in ten; its misses lie in other documents."""
    n_documents, rng = 1200, np.random.default_rng(0)
    token_ids = np.tile([0, *[1] * 8, 2, *[1] * 10], n_documents)
    fires = rng.random(n_documents) < 0.9
    activations = {20 * n + 9: 1.0 + rng.random() for n in np.flatnonzero(fires)}
    text = planted(activations, doc_lengths=[20] * n_documents, token_ids=token_ids)
    near = {
        half: [row for row in collected(tmp_path / half, text)[0] if row[1:3] == (half, "near")]
        for half in HALVES
    }
    for half, rows in near.items():
        assert len(rows) == CONFIG.n_near, half
        assert {int(text.token_ids[row[4]]) for row in rows} == {2}
        assert not fires[[row[4] // 20 for row in rows]].any()


def test_quantiles_of_a_large_feature_are_where_they_should_be(tmp_path):
    """Many more peaks than a reservoir holds: over seeds, groups lie in their tenth of them all."""
    n_documents, rng = 3000, np.random.default_rng(0)
    values = rng.gamma(2, 1, n_documents).astype(np.float32)
    activations = {20 * n + 9: value for n, value in enumerate(values)}
    text = planted(activations, doc_lengths=[20] * n_documents)
    config = CONFIG.model_copy(update={"n_quantiles": 10, "n_per_quantile": 5})
    rank = np.empty(n_documents)
    explains = is_explaining(np.arange(n_documents))
    for half in (explains, ~explains):
        rank[half] = values[half].argsort().argsort() / half.sum()
    shares = defaultdict(list)
    for seed in range(3):
        for _, _, group, _, place, *_ in collected(
            tmp_path / str(seed), text, config=config, seed=seed
        )[0]:
            shares[group].append(rank[place // 20])
    for quantile in range(10):
        found = np.array(shares[f"q{quantile}"])
        assert len(found) == 3 * 2 * 5
        assert abs(found.mean() - (quantile + 0.5) / 10) < 0.03
        assert (abs(found - (quantile + 0.5) / 10) < 0.05 + 4 * 0.032).all(), "four SE of 256 peaks"
