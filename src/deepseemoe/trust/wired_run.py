"""The wired model through the whole path: text, training, stores, dictionary, map, and its score.

Planted are the pairs of the experts with features that detect their concepts: a feature detects a
concept that holds of DETECTS or more of the tokens on which it fires.

Axes: T tokens, F features, C concepts, R rows of the map.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deepseemoe.activations.capture import cache_activations
from deepseemoe.config import (
    ActivationsConfig,
    CorpusConfig,
    DictionaryConfig,
    ExpertsConfig,
    ModelConfig,
)
from deepseemoe.corpus.pack import pack_corpus
from deepseemoe.corpus.tokenizer import load_tokenizer, prepare_tokenizer
from deepseemoe.dictionary.train import train_dictionary
from deepseemoe.experts.effects import measure_effects
from deepseemoe.experts.order import combined
from deepseemoe.experts.reads import map_reads
from deepseemoe.features.encode import encode_features
from deepseemoe.features.store import FeatureShard
from deepseemoe.model.loading import load_model
from deepseemoe.names import Window
from deepseemoe.runtime.tables import read_table
from deepseemoe.trust.scores import Found, found
from deepseemoe.trust.wired import CONCEPTS, Concepts, train_wired

LAYER, WINDOW = 1, Window(0, 0)
"""The wired router reads what the window before it has written."""

DETECTS = 0.8
"""Share of a feature's tokens of which a concept must hold."""

CORPUS = CorpusConfig.model_validate(
    {
        "source": "planted",
        "n_tokens": {"train": 131_072, "select": 16_384, "test": 65_536},
        "sequence_length": 128,
        "shard_tokens": 65_536,
        "shuffle_buffer": 1000,
    }
)
MODEL = ModelConfig.model_validate(
    {
        "architecture": {
            "d_model": 64,
            "n_layers": 2,
            "n_heads": 4,
            "n_experts": 16,
            "d_expert": 64,
        },
        "training": {"n_tokens": 524_288, "balance_loss": 0.0},
    }
)
DICTIONARY = DictionaryConfig(
    d_dict=256, k=4, n_tokens=786_432, batch_tokens=512, learning_rate=3e-3, init_norm=0.7
)
ACTIVATIONS = ActivationsConfig.model_validate({"router_logits": True})
EXPERTS = ExpertsConfig(full_features=0)


ORDERS = (
    "default",
    "beta_sel",
    "causal_dp",
    "causal_dm",
    "w_map",
    "rd",
    "rho",
    "p_e_given_f",
    "lor_lo",
)


class Wired(NamedTuple):
    """How the map of a wired model compares with what was wired."""

    orders: dict[str, Found]
    n_features: int
    n_planted: int
    n_tested: int


def run_wired(folder: Path, *, seed: int) -> Wired:
    """Make a wired model and its map below `folder`, and return how it scores."""
    splits = _pack(folder, seed)
    concepts = Concepts.of(folder / "tokenizer", folder / "documents.parquet")
    train_wired(
        MODEL,
        layer=LAYER,
        vocab_size=len(load_tokenizer(folder / "tokenizer")),
        train=splits["train"],
        select=splits["select"],
        concepts=concepts,
        folder=folder / "model",
        seed=seed,
    )
    stores = _cache(folder, splits, seed)
    train_dictionary(
        DICTIONARY,
        window=WINDOW,
        stores=stores["train"],
        select_stores=stores["select"],
        folder=folder / "dictionary",
        seed=seed,
    )
    shards = _map(folder, splits["test"], stores["test"], seed)
    return score_wired(folder / "reads.parquet", shards, concepts)


def score_wired(reads: Path, feature_shards: list[Path], concepts: Concepts) -> Wired:
    """Return how a map of a wired model compares with what was wired."""
    shards = [FeatureShard.open(path) for path in feature_shards]
    holds = [concepts.table(shard.token_ids, shard.doc_ids) for shard in shards]
    parts = zip(shards, holds, strict=True)
    both_FC = sum((shard.matrix() > 0).astype(np.float64).T @ of_TC for shard, of_TC in parts)
    fires_F = sum(np.asarray((shard.matrix() > 0).sum(0)).ravel() for shard in shards)
    detects_FC = both_FC >= DETECTS * np.maximum(fires_F, 1)[:, None]
    rows = {n: c.to_numpy(zero_copy_only=False) for n, c in _columns(reads).items()}
    detects_FE = np.zeros((detects_FC.shape[0], MODEL.architecture.n_experts), bool)
    detects_FE[:, : len(CONCEPTS)] = detects_FC
    truth = detects_FE[rows["feature"], rows["expert"]]
    rows["default"] = combined(rows["beta_sel"], rows["beta_logit"], rows["causal_dp"])
    groups = {"expert": rows["expert"], "feature": rows["feature"]}
    names = (
        "default",
        "beta_sel",
        "causal_dp",
        "causal_dm",
        "w_map",
        "rd",
        "rho",
        "p_e_given_f",
        "lor_lo",
    )
    orders = {name: found(rows[name], truth, **groups) for name in names}
    n_planted_F = np.unique(rows["feature"][truth]).size
    return Wired(orders, n_planted_F, int(truth.sum()), truth.size)


def _columns(reads: Path) -> dict[str, Any]:
    table = read_table(reads)
    return {name: table[name] for name in table.column_names if name not in ("tier", "reason")}


def _pack(folder: Path, seed: int) -> dict[str, list[Path]]:
    prepare_tokenizer(
        CORPUS, model_name=None, revision=None, folder=folder / "tokenizer", seed=seed
    )
    splits = {
        split: [folder / f"{split}-{n}.tokens.zarr" for n in range(CORPUS.n_shards(split))]
        for split in ("train", "select", "test")
    }
    pack_corpus(
        CORPUS,
        tokenizer_folder=folder / "tokenizer",
        shards=splits,
        documents=folder / "documents.parquet",
        seed=seed,
    )
    return splits


def _cache(folder: Path, splits: dict[str, list[Path]], seed: int) -> dict[str, list[Path]]:
    model, stores = load_model(MODEL, folder / "model"), {}
    for split, shards in splits.items():
        stores[split] = [folder / f"{split}-{n}.store.zarr" for n in range(len(shards))]
        for number, (tokens, store) in enumerate(zip(shards, stores[split], strict=True)):
            cache_activations(
                ACTIVATIONS,
                model=model,
                tokens=tokens,
                store=store,
                sites=[f"resid_post/L{layer:02d}" for layer in WINDOW.layers],
                split=split,
                shard=number,
                seed=seed,
                manifest={"n_experts": model.n_experts},
            )
    return stores


def _map(folder: Path, tokens: list[Path], stores: list[Path], seed: int) -> list[Path]:
    shards = [folder / f"features-{n}.zarr" for n in range(len(stores))]
    for store, shard in zip(stores, shards, strict=True):
        encode_features(
            dictionary=folder / "dictionary", store=store, output=shard, device="cpu", manifest={}
        )
    effects = folder / "effects.parquet"
    measure_effects(
        EXPERTS,
        model=load_model(MODEL, folder / "model"),
        dictionary=folder / "dictionary",
        feature_shards=shards,
        tokens=tokens,
        effects=effects,
        seed=seed,
    )
    map_reads(
        EXPERTS,
        dictionary=folder / "dictionary",
        effects=effects,
        feature_shards=shards,
        stores=stores,
        reads=folder / "reads.parquet",
        agreement=folder / "agreement.parquet",
        summary=folder / "summary.json",
        seed=seed,
    )
    return shards
