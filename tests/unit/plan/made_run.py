"""A small run made with the library's own writers, to weigh against its plan."""

from pathlib import Path

import numpy as np
import torch

from deepseemoe.activations.capture import cache_activations
from deepseemoe.config import RunConfig, load_run
from deepseemoe.corpus.sequences import positions
from deepseemoe.corpus.shards import TokenShard, write_shard
from deepseemoe.dictionary.batches import Batch
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.layout import parts_of
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.dictionary.recipe import Recipe
from deepseemoe.dictionary.trainer import Trainer
from deepseemoe.dictionary.weights import regressed_weights, tied_weights
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.training import new_network
from deepseemoe.plan.dictionaries import Shape
from deepseemoe.plan.stores import shard_sizes
from deepseemoe.runtime.checkpoints import write_checkpoint

VOCAB, LENGTH, DOCUMENT = 300, 64, 100

SMALL = load_run(
    {
        "windows": ["L00-L01", "L01-L02"],
        "corpus": {
            "n_tokens": {"train": 9_984, "select": 1024, "test": 2048},
            "sequence_length": LENGTH,
            "shard_tokens": 4096,
            "tokenizer": {"vocab_size": VOCAB},
        },
        "model": {"architecture": {"d_model": 64, "n_layers": 4, "n_dense_layers": 1}},
        "activations": {"window_tokens": 1024, "chunk_tokens": 128, "router_logits": True},
        "dictionaries": {
            "crosscoder": {"d_dict": 192, "k": 8, "batch_tokens": 256, "n_tokens": 1024},
            "transcoder": {
                "kind": "transcoder",
                "d_dict": 129,
                "k": 8,
                "batch_tokens": 256,
                "n_tokens": 1024,
            },
        },
    }
)


def live(run: RunConfig, **batches: object) -> RunConfig:
    """Return the run with live training."""
    changed = run.batches.model_copy(update={"source": "live", **batches})
    return run.model_copy(update={"batches": changed})


def small_model(run: RunConfig) -> MoeModel:
    """Return the run's model with random weights, cut to the layers that are read."""
    network = new_network(run.model.architecture, vocab_size=VOCAB, max_positions=LENGTH, seed=0)
    return MoeModel(network.model)


def write_split(run: RunConfig, folder: Path, split: str) -> list[Path]:
    """Write the token shards and the stores of a split; return the stores."""
    model, rng = small_model(run), np.random.default_rng(1)
    stores = []
    for shard, n_tokens in enumerate(shard_sizes(run, split)):
        ids_SN = rng.integers(1, VOCAB, n_tokens, dtype=np.uint32).reshape(-1, LENGTH)
        documents_SN = (np.arange(n_tokens) // DOCUMENT + 1).astype(np.uint32).reshape(-1, LENGTH)
        tokens = folder / f"{split}-{shard}.tokens.zarr"
        text = TokenShard(ids_SN, documents_SN, positions(documents_SN))
        write_shard(tokens, text, split=split, shard=shard, manifest={})
        stores.append(folder / f"{split}-{shard}.zarr")
        cache_activations(
            run.activations,
            model=model,
            tokens=tokens,
            store=stores[-1],
            sites=run.sites(),
            split=split,
            shard=shard,
            seed=run.seed,
            manifest={"run": run.name, "model": run.stage("model")},
        )
    return stores


def trained(shape: Shape) -> Trainer:
    """Return a trainer of a dictionary after one step on noise."""
    config, rng = shape.config, torch.Generator().manual_seed(0)
    noise_TC = torch.randn(config.batch_tokens, shape.n_layers * shape.d_model, generator=rng)
    parts = parts_of(config.kind, n_layers=shape.n_layers, d_dict=config.d_dict)
    options = {"d_model": shape.d_model, "init_norm": 0.5, "seed": 0}
    if config.kind == "crosscoder":
        weights = tied_weights(parts[0], **options)
    else:
        weights = regressed_weights(parts, noise_TC, noise_TC, **options)
    recipe = Recipe.of(config, d_model=shape.d_model)
    trainer = Trainer(recipe, parts, weights, d_model=shape.d_model)
    trainer.advance(Batch(noise_TC, noise_TC))
    return trainer


def write_dictionary(shape: Shape, folder: Path) -> Trainer:
    """Write a dictionary's folder and a checkpoint of its training beside it."""
    trainer = trained(shape)
    plain = Normalisation(torch.zeros(shape.n_layers, shape.d_model), torch.ones(shape.n_layers))
    Dictionary(
        shape.config.kind,
        shape.window,
        shape.config.k,
        "resid_post",
        "moe_out",
        trainer.weights,
        plain,
        plain,
    ).save(folder)
    log = {"rows": [{"step": 1, "loss": 0.5}], "sums": {}, "n_steps": 0}
    write_checkpoint(folder / "checkpoint", run="0" * 16, step=1, tensors=trainer.state(), log=log)
    return trainer


def bytes_on_disk(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return sum(file.stat().st_size for file in files)
