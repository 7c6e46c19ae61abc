"""Encode the test split: the dictionary is read once, and a killed attempt costs one shard."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseemoe.activations.store import ActivationStore
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.folder import CONFIG, WEIGHTS
from deepseemoe.features.encode import encode_features
from deepseemoe.runtime.attempts import growing_folder, left_to_make, settle
from deepseemoe.runtime.fingerprint import content_digest
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.tables import digest

logger = logging.getLogger(__name__)


def encode_shards(
    *,
    dictionary: Path,
    stores: Sequence[Path],
    outputs: Sequence[Path],
    device: str,
    manifest: Mapping[str, Any],
) -> None:
    """Write the features of all `stores` to `outputs`, feature shards, all of them or none.

    They grow beside `outputs`, which a scheduler takes away from a job that fails; those that an
    earlier attempt finished of the same dictionary, store and manifest are kept. Raises what
    `encode_features` raises.
    """
    folder, model = growing_folder(outputs), Dictionary.load(dictionary).to(device)
    weights = [content_digest(dictionary / name) for name in (CONFIG, WEIGHTS)]
    common = {"dictionary": weights, "manifest": dict(manifest)}
    made_from = {
        output.name: digest({**common, "store": _store_digest(store)})
        for store, output in zip(stores, outputs, strict=True)
    }
    left = left_to_make(folder, made_from)
    todo = [pair for pair in zip(stores, outputs, strict=True) if pair[1].name in left]
    logger.info("%s: %d of %d shards are there", folder, len(stores) - len(todo), len(stores))
    n_tokens = sum(ActivationStore(store).n_tokens for store, _ in todo)
    progress = Progress("encode_features", n_tokens)
    for store, output in todo:
        encode_features(
            dictionary=dictionary,
            store=store,
            output=folder / output.name,
            device=device,
            manifest=manifest,
            model=model,
            progress=progress,
        )
    settle(folder, outputs)


def _store_digest(store: Path) -> str:
    """Return 16 digits of a store by its metadata and statistics, which tell all its values."""
    metadata = sorted(store.rglob("zarr.json"))
    files = [*metadata, store / "statistics"]
    return digest({str(path.relative_to(store)): content_digest(path) for path in files})
