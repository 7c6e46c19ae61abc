"""Stores of several shards from one loaded model; a killed attempt costs the shard it was at."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseemoe.activations.capture import cache_activations, stored_arrays
from deepseemoe.config.activations import ActivationsConfig
from deepseemoe.corpus.shards import shard_shape
from deepseemoe.model.adapter import MoeModel
from deepseemoe.runtime.attempts import growing_folder, left_to_make, settle
from deepseemoe.runtime.fingerprint import content_digest
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.tables import digest

logger = logging.getLogger(__name__)


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
    model_files: Any = None,
) -> list[Path]:
    """Make `folder/<name>.zarr` for each token shard at `tokens`, in order; return their paths.

    Each has the bytes that `cache_activations` gives it. Stores that an earlier attempt finished
    are kept where they were made from the same: text, routers, sites, configuration, seed, manifest
    and `model_files`, what tells files of a model by others apart; all else in `folder` but
    `attempts.RECORD` is removed. Raises what `cache_activations` raises.
    """
    stores = [folder / f"{path.stem}.zarr" for path in tokens]
    common = {
        "config": config.model_dump(mode="json"),
        "arrays": [spec.name for spec in stored_arrays(model, sites)],
        "routers": _router_digest(model),
        "split": split,
        "seed": seed,
        "manifest": dict(manifest),
        "model_files": model_files,
    }
    texts = map(content_digest, tokens)
    made_from = {
        store.name: digest({**common, "text": text})
        for store, text in zip(stores, texts, strict=True)
    }
    left = left_to_make(folder, made_from)
    todo = [(path, store) for path, store in zip(tokens, stores, strict=True) if store.name in left]
    logger.info("%s: %d of %d stores are there", folder, len(tokens) - len(todo), len(tokens))
    names = f"{split}/{tokens[0].stem} to {tokens[-1].stem}"
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


def cache_shards(stores: Sequence[Path], *, tokens: Sequence[Path], **options: Any) -> None:
    """Write the stores of neighbouring shards of a split, all of them or none.

    They grow beside `stores`, which a scheduler takes away from a job that fails. `options` are
    those of `cache_into`.
    """
    folder = growing_folder(stores)
    cache_into(folder, tokens=tokens, **options)
    settle(folder, stores)


def _router_digest(model: MoeModel) -> str:
    """Return 16 digits of the routers' weights: they tell a model from one trained again."""
    found = hashlib.sha256()
    for layer in model.moe_layers:
        found.update(model.router_weight(layer).detach().float().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def _n_tokens(path: Path) -> int:
    n_sequences, length = shard_shape(path)
    return n_sequences * length
