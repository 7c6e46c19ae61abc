import numpy as np
import pytest
import torch
from planted_model import PlantedDictionary, PlantedMoe

from deepseemoe.corpus.shards import TokenShard
from deepseemoe.experts.weights import norm_scales, weight_map, written_before
from deepseemoe.names import Window


@pytest.fixture(scope="module")
def model():
    return PlantedMoe(0, layers=(1, 2))


def dictionary(kind, *, n_features=6, n_layers=2, width=64):
    generator = torch.Generator().manual_seed(0)
    return PlantedDictionary(
        kind, Window(1, n_layers), torch.randn(n_features, n_layers, width, generator=generator)
    )


def test_the_map_is_the_change_of_logits_when_a_feature_is_added_before_the_norm(model):
    """With the scale held, since one feature hardly moves the norm of a residual."""
    learned, residual, mean_z, scale = dictionary("crosscoder"), torch.randn(64), 1.7, 2.5
    gain, router_ED = model.router_gain(2), model.router_weight(2)
    added = residual + mean_z * learned.decoder_FLD[4, 0]  # written at layer 1, read at layer 2
    change = ((added - residual) * gain / scale) @ router_ED.T
    found = weight_map(
        model,
        learned,
        2,
        features=np.array([1, 4]),
        mean_activation_F=np.array([0.3, mean_z]),
        scale=scale,
    )
    np.testing.assert_allclose(found[1], change - change.mean(), rtol=1e-4, atol=1e-5)


def test_a_crosscoder_is_taken_one_layer_below_the_router():
    learned = dictionary("crosscoder")
    for layer in (2, 3):
        expected = learned.decoder_FLD[:, layer - 2].numpy()
        assert np.allclose(written_before(learned, layer), expected)


def test_a_transcoder_is_what_it_wrote_at_layers_below(model):
    learned = dictionary("transcoder", n_layers=3)
    learned.decoder_FLD[3:, 0] = 0  # features 3.. read layer 2 and write from there on
    expected = learned.decoder_FLD[:, :2].sum(1).numpy()
    assert np.allclose(written_before(learned, 3), expected, atol=1e-6)
    options = {"features": np.arange(6), "mean_activation_F": np.ones(6), "scale": 1.0}
    at = {layer: weight_map(model, learned, layer, **options) for layer in (1, 2)}
    assert np.isnan(at[1]).all()
    assert np.isnan(at[2]).all(axis=1).tolist() == [False] * 3 + [True] * 3


def test_the_scale_of_the_norm_is_measured_without_first_positions(model):
    rng = np.random.default_rng(0)
    shape = 30, 50
    ids, positions = rng.integers(120, size=shape), np.tile(np.arange(50), (30, 1))
    whole = TokenShard(ids, np.zeros(shape), positions)
    cut = [TokenShard(*(part[rows] for part in whole)) for rows in (slice(7), slice(7, None))]
    tokens, positions = ids.ravel()[:1024], positions.ravel()[:1024]
    expected = model.norm_scale(model._residual_VD[tokens[positions > 0]]).mean().item()
    for shards in ([whole], cut):
        corpus = [lambda shard=shard: shard for shard in shards]
        found = norm_scales(model, corpus, (1, 2))
        assert found == pytest.approx({1: expected, 2: expected}, rel=1e-4)
