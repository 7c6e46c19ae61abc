"""Worlds of layers whose codes are known to be shared, or not, and the experiment on them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from planted_stores import write_store

from deepseemoe.config import JustifyConfig
from deepseemoe.justify.evaluate import evaluate_window
from deepseemoe.justify.evidence import Evidence, read_evaluation
from deepseemoe.justify.plan import arms_of, members, seeds_of, windows_of
from deepseemoe.justify.training import train_member
from deepseemoe.names import Window

D_MODEL = 12


class World(NamedTuple):
    """Stores of each split, and the layers they hold."""

    train: Path
    select: Path
    test: Path
    layers: Window


def write_world(folder, groups, *, n_features, n_active, noise=0.05):
    """Write a world in which the layers of each group, as (0, 1, 2), carry one common code."""
    n_layers = sum(map(len, groups))
    directions = np.random.default_rng(7).standard_normal((n_layers, n_features, D_MODEL))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    paths = {}
    for number, (split, n_tokens) in enumerate(
        {"train": 8192, "select": 2048, "test": 4096}.items()
    ):
        rng = np.random.default_rng([11, number])
        sites = {}
        for group in groups:
            is_active = rng.random((n_tokens, n_features)) < n_active / n_features
            codes = is_active * rng.uniform(0.7, 1.3, (n_tokens, n_features))
            for layer in group:
                values = codes @ directions[layer]
                values += noise * rng.standard_normal(values.shape)
                sites[f"resid_post/L{layer:02d}"] = values
        paths[split] = write_store(folder / f"{split}.zarr", sites, split=split)
    return World(**paths, layers=Window(0, n_layers - 1))


def experiment(folder, world, config):
    """Train and evaluate everything that a configuration asks for; return the evidence."""

    def folder_of(member, seed):
        return folder / member.arm / str(member.window) / str(seed)

    found = []
    for window in windows_of(config, world.layers):
        for seed in config.seeds:
            for arm in arms_of(config, window):
                for member in members(config, arm, window) if seed in seeds_of(config, arm) else ():
                    if not folder_of(member, seed).exists():
                        train_member(
                            config, member=member, stores=[world.train],
                            select_stores=[world.select], folder=folder_of(member, seed), seed=seed,
                        )  # fmt: skip
            out = folder / "evaluation" / str(window) / str(seed)
            evaluate_window(
                config, window=window, weights="trained", seed=seed,
                folder_of=lambda member, seed=seed: folder_of(member, seed),
                select_stores=[world.select], test_stores=[world.test], tokens=[], model=None,
                folder=out,
            )  # fmt: skip
            found.append(read_evaluation(out))
    return Evidence(found)


def small_config(**changes):
    """Return a configuration that trains in about a second."""
    options = {
        "widths": (1, 2, 3, "all"),
        "arms": ("features-l0",),
        "n_tokens": 25_600,
        "batch_tokens": 256,
        "learning_rate": 1e-2,
        "seeds": (0,),
        "n_bootstrap": 200,
    }
    return JustifyConfig(**options | changes)
