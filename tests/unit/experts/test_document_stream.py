import numpy as np
import planted
import pytest
from planted_shards import shards

from deepseemoe.experts.counts import count_pairs
from deepseemoe.experts.documents import DocumentStream
from deepseemoe.experts.join import join
from deepseemoe.experts.support import count_firings

LAYERS = (1, 2)


@pytest.fixture(scope="module")
def world():
    return planted.world(0, n_documents=40, n_features=30, n_experts=8, top_k=2, n_layers=2)


def joined(world, n_shards=1, *, block_tokens=500):
    parts = shards(world, n_shards, layers=LAYERS)
    return join(parts.features, parts.stores, layers=LAYERS, n_experts=8, block_tokens=block_tokens)


def test_features_and_routing_come_out_in_text_order_without_invalid_rows(world):
    text, routing, _ = joined(world, 3)
    rows = np.concatenate([block.features_TF.toarray() for block in text.blocks()])
    assert np.array_equal(rows, world.features_TF.toarray())
    assert np.array_equal(routing.experts_TLK, world.experts_TLK)
    assert np.array_equal(routing.weights_TLK, world.weights_TLK)


def test_blocks_hold_whole_documents_wherever_shards_end(world):
    for n_shards in (1, 2, 7):
        text = joined(world, n_shards).text
        bounds = [(block.start, block.stop) for block in text.blocks()]
        edges = [0, *(stop for _, stop in bounds)]
        assert [start for start, _ in bounds] == edges[:-1]
        assert set(edges) <= set(text.documents.starts)
        assert len(bounds) > 3
        assert text.documents.n_documents == 40


def test_shard_boundaries_do_not_change_a_bit_of_the_sums(world):
    whole, cut = joined(world, 1), joined(world, 6)
    features = np.arange(3, 30, 2)
    for one, other in zip(count_pairs(whole, features), count_pairs(cut, features), strict=True):
        assert np.array_equal(one, other)


def test_a_choice_of_features_gives_their_columns_in_order(world):
    text, features = joined(world, 3).text, np.array([2, 5, 29])
    rows = np.concatenate([block.features_TF.toarray() for block in text.blocks(features)])
    assert np.array_equal(rows, world.features_TF.toarray()[:, features])


def test_margins_count_tokens_documents_and_choices(world):
    one = joined(world, 3)
    firings, fires = count_firings(one.text), world.features_TF.toarray() > 0
    assert np.array_equal(firings.tokens_F, fires.sum(0))
    wide = [np.unique(world.document_T[fires[:, f]]).size for f in range(30)]
    assert np.array_equal(firings.documents_F, wide)
    chosen = [np.sum(world.experts_TLK[:, place] == e) for place in (0, 1) for e in range(8)]
    assert np.array_equal(count_pairs(one, np.arange(2)).e_X, chosen)


def test_stores_of_other_text_are_refused(world):
    parts = shards(world, 2, layers=LAYERS)
    with pytest.raises(ValueError, match="of different text"):
        join(parts.features, parts.stores[::-1], layers=LAYERS, n_experts=8)
    with pytest.raises(ValueError, match="2 feature shards but 1 activation stores"):
        join(parts.features, parts.stores[:1], layers=LAYERS, n_experts=8)


def test_experts_that_the_model_lacks_are_refused(world):
    parts = shards(world, 1, layers=LAYERS)
    with pytest.raises(ValueError, match="name expert 7, but the model has 4"):
        join(parts.features, parts.stores, layers=LAYERS, n_experts=4)


def test_shards_of_two_dictionaries_are_refused(world):
    other = planted.world(0, n_documents=5, n_features=12, n_experts=8, top_k=2, n_layers=2)
    mixed = shards(world).features + shards(other).features
    with pytest.raises(ValueError, match="12 features, but 30 in the first"):
        DocumentStream(mixed)
