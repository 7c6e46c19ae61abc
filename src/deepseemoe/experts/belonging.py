"""Whether features, stores, a dictionary and effects are of one run: told before any count.

Manifests say what made a file. What a manifest does not say, as one of another tool or of an older
version, is not asked.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseemoe.activations.store import ActivationStore
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.folder import WEIGHTS
from deepseemoe.features.store import FeatureShard
from deepseemoe.runtime.fingerprint import sampled_digest


def check_features(dictionary: Path, learned: Dictionary, shards: Sequence[FeatureShard]) -> None:
    """Raise ValueError where feature shards are not of this dictionary."""
    known = {"window": str(learned.window)}
    if any("weights" in shard.manifest for shard in shards):
        known["weights"] = sampled_digest(dictionary / WEIGHTS)
    for place, shard in enumerate(shards):
        if shard.d_dict != learned.d_dict:
            raise ValueError(
                f"feature shard {place}: {shard.d_dict} features, but {dictionary} has "
                f"{learned.d_dict}; encode the features with this dictionary (encode_features)"
            )
        for key, expected in known.items():
            if shard.manifest.get(key, expected) != expected:
                raise ValueError(
                    f"feature shard {place}: encoded with {key} {shard.manifest[key]}, but "
                    f"{dictionary} has {expected}; encode the features again (encode_features)"
                )


def check_stores(shards: Sequence[FeatureShard], stores: Sequence[ActivationStore]) -> None:
    """Raise ValueError where feature shards were encoded from stores of another model or seed."""
    for place, (shard, store) in enumerate(zip(shards, stores, strict=True)):
        told = shard.manifest.get("store", store.manifest)
        for key, ours, theirs in _differences(told, store.manifest):
            raise ValueError(
                f"shard {place}: features were encoded from a store with {key} {ours}, but this "
                f"one has {theirs}; encode the features from it (encode_features)"
            )


def check_effects(path: Path, manifest: Mapping[str, Any], shards: Sequence[FeatureShard]) -> None:
    """Raise ValueError where effects were measured on other features."""
    told = manifest.get("features", shards[0].manifest)
    for key, ours, theirs in _differences(told, shards[0].manifest):
        raise ValueError(
            f"{path}: measured on features with {key} {ours}, but these have {theirs}; measure "
            "them again (measure_effects)"
        )


def _differences(
    one: Mapping[str, Any], other: Mapping[str, Any], above: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the keys that both know with different values, those inside others by dotted names."""
    for key in [key for key in one if key in other]:
        name, mine, theirs = f"{above}{key}", one[key], other[key]
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            yield from _differences(mine, theirs, f"{name}.")
        elif mine != theirs:
            yield name, mine, theirs
