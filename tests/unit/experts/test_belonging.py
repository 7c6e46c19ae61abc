"""Files that do not belong together are told apart by what made them."""

from types import SimpleNamespace

import pytest

from deepseemoe.experts.belonging import check_effects, check_features, check_stores
from deepseemoe.names import Window
from deepseemoe.runtime.fingerprint import sampled_digest

LEARNED = SimpleNamespace(window=Window(0, 1), d_dict=8)


@pytest.fixture
def dictionary(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(bytes(range(256)) * 4000)
    return tmp_path


def shard(dictionary=None, **manifest):
    own = {"window": "L00-L01", "store": {"model": {"name": "a", "dtype": "float32"}, "seed": 0}}
    if dictionary:
        own["weights"] = sampled_digest(dictionary / "weights.safetensors")
    return SimpleNamespace(d_dict=8, manifest=own | manifest)


def test_what_belongs_together_passes(dictionary):
    one = shard(dictionary)
    check_features(dictionary, LEARNED, [one, shard()])
    check_stores([one], [SimpleNamespace(manifest=one.manifest["store"])])
    check_effects(dictionary, {"features": one.manifest}, [one])
    check_effects(dictionary, {}, [one])


def test_features_of_other_weights_windows_and_sizes_are_refused(dictionary):
    one = shard(dictionary)
    data = bytearray((dictionary / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (dictionary / "weights.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="feature shard 0: encoded with weights .* encode the"):
        check_features(dictionary, LEARNED, [one])
    with pytest.raises(ValueError, match="feature shard 1: encoded with window L05-L06"):
        check_features(dictionary, LEARNED, [shard(), shard(window="L05-L06")])
    with pytest.raises(ValueError, match="8 features, but .* has 9"):
        check_features(dictionary, SimpleNamespace(window=Window(0, 1), d_dict=9), [shard()])


def test_stores_of_another_model_are_refused_by_the_key_that_differs():
    store = SimpleNamespace(manifest={"model": {"name": "b", "dtype": "float32"}, "seed": 0})
    with pytest.raises(ValueError, match="shard 0: .* model.name a, but this one has b"):
        check_stores([shard()], [store])


def test_effects_on_other_features_are_refused(dictionary):
    told = shard(window="L02-L03").manifest
    with pytest.raises(ValueError, match="measured on features with window L02-L03"):
        check_effects(dictionary, {"features": told}, [shard()])
