"""Stores of several shards from one loaded model, in a folder that a killed attempt may have begun.

A store appears whole, by rename, so what a killed job costs is the shard that it was at. What a
store was made from is written beside it before it is begun: another attempt keeps the stores that
it would make itself, and removes all else.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseemoe.activations.capture import cache_activations, stored_arrays
from deepseemoe.config.activations import ActivationsConfig
from deepseemoe.corpus.shards import shard_shape
from deepseemoe.model.adapter import MoeModel
from deepseemoe.runtime.files import read_json, remove, write_json
from deepseemoe.runtime.fingerprint import content_digest
from deepseemoe.runtime.progress import Progress

logger = logging.getLogger(__name__)

RECORD = "made_from.json"
"""Beside the stores: for each of them, a digest of what it is made from."""


def cache_into(
    folder: Path,
    *,
    config: ActivationsConfig,
    model: MoeModel,
    tokens: Sequence[Path],
    sites: Sequence[str],
    split: str,
    seed: int,
    manifest: Mapping[str, Any],
) -> list[Path]:
    """Make `folder/<name>.zarr` for each token shard at `tokens`, in order; return their paths.

    Each has the bytes that `cache_activations` gives it. Stores that an earlier attempt finished
    are kept where they were made from the same: text, model, sites, configuration, seed and
    manifest; all else in `folder` but `RECORD` is removed. Raises what `cache_activations` raises.
    """
    stores = [folder / f"{path.stem}.zarr" for path in tokens]
    common = {
        "config": config.model_dump(mode="json"),
        "arrays": [spec.name for spec in stored_arrays(model, sites)],
        "routers": _router_digest(model),
        "split": split,
        "seed": seed,
        "manifest": dict(manifest),
    }
    digests = {path.name: _digest({**common, "text": content_digest(path)}) for path in tokens}
    left = _left_over(folder, digests)
    todo = [(path, store) for path, store in zip(tokens, stores, strict=True) if store.name in left]
    logger.info("%s: %d of %d stores are there", folder, len(tokens) - len(todo), len(tokens))
    names = f"{split}/{tokens[0].stem} to {tokens[-1].stem}" if tokens else split
    progress = Progress(f"activations of {names}", sum(_n_tokens(path) for path, _ in todo))
    for path, store in todo:
        cache_activations(
            config,
            model=model,
            tokens=path,
            store=store,
            sites=sites,
            split=split,
            shard=path.stem,
            seed=seed,
            manifest=manifest,
            progress=progress,
        )
    return stores


def _left_over(folder: Path, wanted: Mapping[str, str]) -> set[str]:
    """Return which stores are to be made; remove what is none of them and record what they are.

    The record names no store while it is being removed: half of it would pass for whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = _record_of(folder)
    kept = {name for name in wanted if found.get(name) == wanted[name] and (folder / name).is_dir()}
    write_json(folder / RECORD, {name: wanted[name] for name in sorted(kept)})
    for path in folder.iterdir():
        if path.name not in {*kept, RECORD}:
            remove(path)
    write_json(folder / RECORD, wanted)
    return set(wanted) - kept


def _record_of(folder: Path) -> Mapping[str, str]:
    """Return the digests of the stores of an earlier attempt; none where that cannot be read."""
    try:
        found = read_json(folder / RECORD)
    except (OSError, ValueError):  # not there, or no JSON
        return {}
    return found if isinstance(found, dict) else {}


def _router_digest(model: MoeModel) -> str:
    """Return 16 digits of the routers' weights: they tell a model from one trained again."""
    found = hashlib.sha256()
    for layer in model.moe_layers:
        found.update(model.router_weight(layer).detach().float().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _n_tokens(path: Path) -> int:
    n_sequences, length = shard_shape(path)
    return n_sequences * length
