"""Training of one dictionary on one window: stores in, weights, configuration and curves out.

Killed at any point and started again, it goes on from its last checkpoint and ends in the same
bytes, since a batch depends on seed and step only.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config.dictionary import DictionaryConfig
from deepseemoe.dictionary.batches import (
    CachedBatches,
    Sites,
    open_stores,
    site_names,
    valid_blocks,
)
from deepseemoe.dictionary.curves import mirror
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.fit import Checkpoints, fit
from deepseemoe.dictionary.layout import parts_of
from deepseemoe.dictionary.recipe import Recipe
from deepseemoe.dictionary.threshold import calibrate
from deepseemoe.dictionary.trainer import Trainer
from deepseemoe.dictionary.weights import regressed_weights, tied_weights
from deepseemoe.names import Window
from deepseemoe.runtime.checkpoints import checkpoint_path
from deepseemoe.runtime.files import growing, remove
from deepseemoe.runtime.tables import digest

logger = logging.getLogger(__name__)

UNSEEN = {"wandb_project", "checkpoint_steps"}
"""Keys of the configuration that change no output, so none of them names it either."""


def train_dictionary(
    config: DictionaryConfig,
    *,
    window: Window,
    stores: Sequence[Path],
    select_stores: Sequence[Path],
    folder: Path,
    seed: int,
    device: str = "cpu",
    manifest: Mapping[str, Any] | None = None,
) -> Dictionary:
    """Train a dictionary on `stores`, set its threshold on `select_stores`, and write `folder`.

    The folder gets `weights.safetensors`, `config.json` and `training.parquet`, and appears whole.
    Raises ValueError where a store lacks a site, tokens fill no batch, or training diverges.
    """
    reads, writes = hook_points(config)
    names = tuple(dict.fromkeys((*site_names(reads, window), *site_names(writes, window))))
    train, select = open_stores(stores, names), open_stores(select_stores, names)
    manifest = {**(manifest or {}), "config": config.model_dump(mode="json", exclude=UNSEEN)}

    batches = _batches(config, train, window, seed)
    dictionary = untrained(config, window, batches, seed=seed).to(device)
    recipe = Recipe.of(config, d_model=dictionary.d_model)
    trainer = Trainer(recipe, dictionary.parts, dictionary.weights, d_model=dictionary.d_model)
    # Manifests tell neither the text nor how the model was trained; normalisations show both.
    normalised = [*batches.reads.normalisation, *batches.writes.normalisation]
    data = [[store.manifest for store in train], [part.tolist() for part in normalised]]
    run = digest([str(window), seed, manifest, data])
    checkpoints = Checkpoints(checkpoint_path(folder), run, config.checkpoint_steps)
    with mirror(config.wandb_project, f"{folder.parent.name} {window}", manifest) as shown:
        curves = fit(trainer, batches, checkpoints=checkpoints, mirror=shown, device=device)

    trained = replace(dictionary, weights=trainer.weights)
    trained = _with_threshold(trained, select, guess=curves.rows[-1]["threshold"]).to("cpu")
    with growing(folder) as partial:
        trained.save(partial, manifest=manifest)
        curves.write(partial / "training.parquet", manifest)
    remove(checkpoints.path)
    return trained


def hook_points(config: DictionaryConfig) -> tuple[str, str]:
    """Return what a dictionary reads and what it writes."""
    if config.kind == "crosscoder":
        return "resid_post", "resid_post"
    return config.reads, "moe_out"


def untrained(
    config: DictionaryConfig, window: Window, batches: CachedBatches, *, seed: int
) -> Dictionary:
    """Return the dictionary that training starts from."""
    reads, writes = hook_points(config)
    parts = parts_of(config.kind, n_layers=len(window.layers), d_dict=config.d_dict)
    shape = {"d_model": batches.d_model, "init_norm": config.init_norm, "seed": seed}
    if config.kind == "crosscoder":
        weights = tied_weights(parts[0], **shape)
    else:
        weights = regressed_weights(parts, *batches.batch(0), **shape)
    return Dictionary(
        kind=config.kind,
        window=window,
        k=config.k,
        reads=reads,
        writes=writes,
        weights=weights,
        reading=batches.reads.normalisation,
        writing=batches.writes.normalisation,
    )


def _batches(
    config: DictionaryConfig, stores: Sequence[ActivationStore], window: Window, seed: int
) -> CachedBatches:
    """Return the batches of the train split, normalised by its statistics."""
    reads, writes = (Sites.of(stores, point, window) for point in hook_points(config))
    return CachedBatches(
        stores, reads=reads, writes=writes, batch_tokens=config.batch_tokens, seed=seed
    )


def _with_threshold(
    dictionary: Dictionary, stores: Sequence[ActivationStore], *, guess: float
) -> Dictionary:
    """Return the dictionary with the threshold that gives `k` features a token on `stores`."""
    names = site_names(dictionary.reads, dictionary.window)

    def blocks() -> Iterator[Tensor]:
        for store in stores:
            for block in valid_blocks(store, names):
                yield torch.from_numpy(block).to(dictionary.norm_F.device)

    found = calibrate(dictionary, blocks, guess=guess)
    logger.info("threshold %.4g: L0 %.2f on select, k %d", *found, dictionary.k)
    return replace(dictionary, threshold=found.threshold, l0=found.l0)
