"""Where dictionaries of different trainers are compared: planted worlds, and the stores of a run.

A planted world is endless: each token is a sum of a few of `N_FEATURES` directions with frequencies
that fall as rank^-0.5, log-normal strengths and a little noise, so a batch is never seen twice. In
a window of layers each direction turns from layer to layer (cosine .8 of neighbours), and each
layer is twice as large as the one before. Stores are those of a run, training on `train`,
thresholds on `select`, metrics on `test`.

Axes: T tokens, F features, L layers of the window, D d_model, C = L * D columns.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepseemoe.config import ModelConfig
from deepseemoe.dictionary.batches import CachedBatches, Sites, open_stores, valid_blocks
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.dictionary.site_names import site_names
from deepseemoe.dictionary.splice_metrics import splice_batches, splice_metrics
from deepseemoe.model.loading import load_model
from deepseemoe.names import Window
from deepseemoe.runtime.seeds import generator

D_MODEL, N_FEATURES, N_ACTIVE = 64, 256, 8.0
BLOCK_TOKENS, N_BLOCKS = 4096, 8
SPLICED_TOKENS = 16_384


class World(NamedTuple):
    """Activations to train on and to be judged by."""

    name: str
    window: Window
    normalisation: Normalisation
    d_dict: int
    k: int
    batch_tokens: int
    batch: Callable[[int], Tensor]
    """Normalised activations (T, C) of a step."""
    select: Callable[[], Iterable[Tensor]]
    """Raw activations (T, L, D) that thresholds are set on."""
    test: Callable[[], Iterable[Tensor]]
    """Raw activations (T, L, D) that metrics are taken on."""
    truth_FLD: Tensor | None = None
    """What was planted, raw."""
    loss_recovered: Callable[[Dictionary], float] | None = None


def planted(*, seed: int, n_layers: int) -> World:
    """Return a planted world; another seed is another world."""
    truth_FLD = _directions(seed, n_layers)
    draw = partial(_tokens, truth_FLD, seed)
    sample_TLD = np.concatenate([draw("moments", block, BLOCK_TOKENS) for block in range(4)])
    moments = {
        f"layer {layer}": (len(sample_TLD), values_TD.mean(0), values_TD.var(0))
        for layer, values_TD in enumerate(sample_TLD.astype(np.float64).swapaxes(0, 1))
    }
    normalisation = Normalisation.from_moments(moments)

    def batch(step: int) -> Tensor:
        raw_TLD = torch.from_numpy(draw("train", step, 512))
        return normalisation.apply(raw_TLD).flatten(1)

    def blocks(split: str) -> Iterable[Tensor]:
        return (torch.from_numpy(draw(split, block, BLOCK_TOKENS)) for block in range(N_BLOCKS))

    return World(
        name=f"planted, {n_layers} layer{'s' if n_layers > 1 else ''}",
        window=Window(0, n_layers - 1),
        normalisation=normalisation,
        d_dict=512,
        k=int(N_ACTIVE),
        batch_tokens=512,
        batch=batch,
        select=partial(blocks, "select"),
        test=partial(blocks, "test"),
        truth_FLD=torch.from_numpy(truth_FLD),
    )


def _directions(seed: int, n_layers: int) -> np.ndarray:
    """Return a direction of each feature at each layer; its norm is 2^layer."""
    rng = generator(seed, "planted", "directions")
    draws_FLD = rng.standard_normal((N_FEATURES, n_layers, D_MODEL))
    for layer in range(1, n_layers):  # unit directions at random are nearly orthogonal
        draws_FLD[:, layer] = 0.8 * draws_FLD[:, layer - 1] + 0.6 * draws_FLD[:, layer]
    draws_FLD *= 2.0 ** np.arange(n_layers)[:, None] / np.linalg.norm(
        draws_FLD, axis=2, keepdims=True
    )
    return draws_FLD.astype(np.float32)


def _tokens(truth_FLD: np.ndarray, seed: int, split: str, block: int, n_tokens: int) -> np.ndarray:
    """Return raw activations (T, L, D) of a block of a split."""
    rng = generator(seed, "planted", split, block)
    share_F = np.arange(1, N_FEATURES + 1) ** -0.5
    is_active = rng.random((n_tokens, N_FEATURES), dtype=np.float32) < (
        N_ACTIVE * share_F / share_F.sum()
    )
    strength = np.exp(0.4 * rng.standard_normal(int(is_active.sum()), dtype=np.float32))
    codes_TF = np.zeros((n_tokens, N_FEATURES), dtype=np.float32)
    codes_TF[is_active] = strength
    x_TLD = np.tensordot(codes_TF, truth_FLD, axes=1)
    scale_L = 0.05 * 2.0 ** np.arange(truth_FLD.shape[1], dtype=np.float32)
    return x_TLD + scale_L[:, None] * rng.standard_normal(x_TLD.shape, dtype=np.float32)


def stored(run: Path, *, seed: int, window: Window) -> World:
    """Return the stores of a run as a world; another seed is another order of batches."""
    names = site_names("resid_post", window)
    train, select, test = (
        open_stores(sorted((run / "activations" / split).iterdir()), names)
        for split in ("train", "select", "test")
    )
    sites = Sites.of(train, names)
    batches = CachedBatches(train, reads=sites, writes=sites, batch_tokens=1024, seed=seed)
    tokens = sorted((run / "corpus" / "test").iterdir())
    model = load_model(ModelConfig(source="nanomoe"), run / "model")

    def blocks(stores: list) -> Iterable[Tensor]:
        return (torch.from_numpy(b) for store in stores for b in valid_blocks(store, names))

    def loss_recovered(dictionary: Dictionary) -> float:
        pieces = splice_batches(test, tokens, max_tokens=SPLICED_TOKENS, batch_sequences=8)
        found = splice_metrics(dictionary, model, pieces, max_tokens=SPLICED_TOKENS)
        return found["loss_recovered"]

    return World(
        name=f"{run.name}, {window}",
        window=window,
        normalisation=sites.normalisation,
        d_dict=1024,
        k=16,
        batch_tokens=1024,
        batch=lambda step: batches.batch(step).inputs_TC,
        select=lambda: blocks(select),
        test=lambda: blocks(test),
        loss_recovered=loss_recovered,
    )
