"""Training of one dictionary on one window: activations in; weights, configuration, curves out.

`begin` and `finish` are the same for stores and for a running model (`live.py`); only the batches
between them differ.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config.dictionary import DictionaryConfig
from deepseemoe.dictionary.batches import (
    Batches,
    CachedBatches,
    Sites,
    open_stores,
    prefetched,
    site_names,
    valid_blocks,
    written_names,
)
from deepseemoe.dictionary.curves import mirror
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import Gate, PerFeature, TopK, Weighted
from deepseemoe.dictionary.layout import Part, parts_of
from deepseemoe.dictionary.recipe import Recipe
from deepseemoe.dictionary.session import Checkpoints, Session
from deepseemoe.dictionary.shards import shard_of
from deepseemoe.dictionary.threshold import calibrate, mean_l0
from deepseemoe.dictionary.trainer import Trainer
from deepseemoe.dictionary.weights import (
    Weights,
    regressed_weights,
    tied_weights,
    with_skips,
    with_thresholds,
)
from deepseemoe.names import Window
from deepseemoe.runtime.checkpoints import checkpoint_path
from deepseemoe.runtime.files import growing
from deepseemoe.runtime.memory import free_bytes
from deepseemoe.runtime.tables import digest

logger = logging.getLogger(__name__)

UNSEEN = {"wandb_project", "checkpoint_steps"}
"""Keys of the configuration that change no output, so none of them names it either."""


class Task(NamedTuple):
    """One dictionary to train: how, on which window, and the folder that it will be."""

    config: DictionaryConfig
    window: Window
    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def of(
        cls, config: DictionaryConfig, window: Window, folder: Path, manifest: Mapping[str, Any]
    ) -> "Task":
        """Return the task; its manifest names the configuration too."""
        described = config.model_dump(mode="json", exclude=UNSEEN)
        return cls(config, window, folder, {**manifest, "config": described})

    @property
    def name(self) -> str:
        """What logs call it."""
        return f"{self.folder.parent.name} {self.window}"

    @property
    def hook_points(self) -> tuple[str, str]:
        """What the dictionary reads and what it writes."""
        return hook_points(self.config)

    @property
    def read_and_written(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The arrays that it reads, and those that it writes."""
        return read_and_written(self.config, self.window)

    @property
    def sites(self) -> tuple[str, ...]:
        """The arrays that it reads, then those that it writes; each once."""
        read, written = self.read_and_written
        return tuple(dict.fromkeys((*read, *written)))


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
    task = Task.of(config, window, folder, manifest or {})
    train, select = open_stores(stores, task.sites), open_stores(select_stores, task.sites)
    reads, writes = (Sites.of(train, names) for names in task.read_and_written)
    batches = CachedBatches(
        train, reads=reads, writes=writes, batch_tokens=config.batch_tokens, seed=seed
    )
    _check_warmup(config, batches.n_valid)
    data = [store.manifest for store in train]
    with ExitStack() as shown:
        session, dictionary = begin(task, batches, data=data, seed=seed, device=device, shown=shown)
        recipe = session.trainer.recipe
        session.train(prefetched(batches, session.trainer.step, recipe.n_steps))
    trained = finish(task, session, dictionary, select)
    session.checkpoints.clear()
    return trained


def _check_warmup(config: DictionaryConfig, n_valid: int) -> None:
    """Raise ValueError where the rate would rise over the same tokens again and again."""
    n_warmup = int(config.warmup_fraction * config.n_tokens)
    if n_valid < n_warmup:
        raise ValueError(
            f"the stores hold {n_valid} valid tokens, fewer than the warm-up of {n_warmup} "
            f"(warmup_fraction {config.warmup_fraction} of n_tokens {config.n_tokens}); cache more "
            "text or lower n_tokens"
        )


def hook_points(config: DictionaryConfig) -> tuple[str, str]:
    """Return what a dictionary reads and what it writes."""
    if config.kind == "crosscoder":
        return "resid_post", "resid_post"
    return config.reads, "moe_out"


def read_and_written(
    config: DictionaryConfig, window: Window
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the arrays that a dictionary reads on a window, and those that it writes."""
    reads, writes = hook_points(config)
    both = config.kind == "transcoder" and config.reconstruct_input
    return site_names(reads, window), written_names(reads, writes, window, reconstruct_input=both)


def begin(
    task: Task,
    batches: Batches,
    *,
    data: Any,
    seed: int,
    device: str,
    shown: ExitStack,
    rank: int = 0,
    n_ranks: int = 1,
) -> tuple[Session, Dictionary]:
    """Return a session at its last checkpoint, and the dictionary whose weights it trains.

    `data` is plain data that names what the batches are made of, so that a checkpoint of other
    data is not used; `shown` holds what is open until training ends. With several ranks the session
    trains one's share of the features, and rank 0 has the dictionary, for `collected` to fill.
    """
    start = seed if task.config.seed is None else task.config.seed
    dictionary = untrained(task, batches, seed=start).to(device if n_ranks == 1 else "cpu")
    recipe = Recipe.of(task.config, d_model=dictionary.d_model)
    parts = parts_in(task.config, n_layers=dictionary.n_layers, grouped=True)
    shard, weights = shard_of(parts, rank, n_ranks), dictionary.weights.cut(dictionary.parts, parts)
    if n_ranks > 1:
        from deepseemoe.dictionary.spread import scatter  # DTensor takes seconds to import

        weights = scatter(weights, shard, device)
        dictionary = dictionary if rank == 0 else dictionary.to("meta")
    ranks = shard.ranks(device)
    trainer = Trainer(recipe, shard.parts, weights, d_model=dictionary.d_model, ranks=ranks)
    # Manifests tell neither the text nor how the model was trained; normalisations show both.
    normalised = [*batches.reads.normalisation, *batches.writes.normalisation]
    data = [data, [part.tolist() for part in normalised]]
    run = digest([str(task.window), seed, task.manifest, data])
    every_steps = task.config.checkpoint_steps
    checkpoints = Checkpoints(checkpoint_path(task.folder), run, every_steps, shard)
    project = task.config.wandb_project if rank == 0 else None
    rows = shown.enter_context(mirror(project, task.name, task.manifest))
    return Session(trainer, checkpoints, rows, name=task.name, device=device), dictionary


def collected(session: Session, dictionary: Dictionary, device: str) -> Dictionary:
    """Return the dictionary with what all ranks trained; all call it, and rank 0 gets it.

    On `device`, where there is room.
    """
    shard = session.checkpoints.shard
    if shard.n_ranks == 1:
        return dictionary
    from deepseemoe.dictionary.spread import gather

    mine = dictionary.weights.cut(dictionary.parts, shard.whole).tensors()
    for tensor, whole in zip(mine, gather(session.trainer.weights, shard), strict=True):
        if shard.rank == 0:
            tensor.copy_(whole)
    session.trainer.ranks.wait()
    n_bytes = 4 * sum(tensor.numel() for tensor in dictionary.weights.tensors())
    has_room = shard.rank == 0 and free_bytes(device) > 2 * n_bytes
    return dictionary.to(device) if has_room else dictionary


def finish(
    task: Task, session: Session, dictionary: Dictionary, select: Sequence[ActivationStore]
) -> Dictionary:
    """Set the gate of what was trained, and write its folder."""
    curves = session.curves
    trained = _folded(dictionary) if task.config.pre_bias else dictionary
    trained = _with_gate(trained, select, guess=curves.rows[-1]["threshold"]).to("cpu")
    with growing(task.folder) as partial:
        trained.save(partial, manifest=task.manifest)
        curves.write(partial / "training.parquet", task.manifest)
    return trained


def untrained(task: Task, batches: Batches, *, seed: int) -> Dictionary:
    """Return the dictionary that training starts from."""
    config, (reads, writes) = task.config, task.hook_points
    return Dictionary(
        kind=config.kind,
        window=task.window,
        k=config.k,
        reads=reads,
        writes=writes,
        weights=_initial(task, batches, seed=seed),
        reading=batches.reads.normalisation,
        writing=batches.writes.normalisation,
        activation=config.activation,
        cross_layer=config.cross_layer,
        reconstruct_input=config.reconstruct_input,
    )


def parts_in(config: DictionaryConfig, *, n_layers: int, grouped: bool = False) -> tuple[Part, ...]:
    """Return the parts of a dictionary; `grouped` cuts them at the ends of Matryoshka prefixes."""
    return parts_of(
        config.kind,
        n_layers=n_layers,
        d_dict=config.d_dict,
        cross_layer=config.cross_layer,
        reconstruct_input=config.reconstruct_input,
        prefixes=config.prefixes if grouped else (),
    )


def _initial(task: Task, batches: Batches, *, seed: int) -> Weights:
    """Return the weights that training starts from."""
    config, n_layers = task.config, len(task.window.layers)
    parts, d_model = parts_in(config, n_layers=n_layers), batches.reads.d_model
    init_norm = 1.0 if config.decoder_norm == "unit" else config.init_norm
    shape = {"d_model": d_model, "init_norm": init_norm, "seed": seed}
    if config.kind == "crosscoder":
        weights = tied_weights(parts[0], **shape)
    else:
        weights = regressed_weights(parts, *batches.batch(0), **shape)
    if config.skip:
        weights = with_skips(weights, n_layers, d_model=d_model)
    if config.activation == "jumprelu":
        x_TC = batches.batch(0).inputs_TC
        weights = with_thresholds(weights, parts, x_TC, k=config.k, d_model=d_model)
    return weights


def _folded(dictionary: Dictionary) -> Dictionary:
    """Return the dictionary with its decoder bias, taken from what it reads, in its encoder's."""
    weights = dictionary.weights
    shift_F = weights.encoders[0] @ weights.decoder_bias
    return replace(
        dictionary, weights=weights._replace(encoder_bias=weights.encoder_bias - shift_F)
    )


def _with_gate(
    dictionary: Dictionary, stores: Sequence[ActivationStore], *, guess: float
) -> Dictionary:
    """Return the dictionary with its gate at inference, and how many features it lets through.

    BatchTopK's threshold is set so that they are k a token on `stores`.
    """
    names = site_names(dictionary.reads, dictionary.window)

    def blocks() -> Iterator[Tensor]:
        for store in stores:
            for block in valid_blocks(store, names):
                yield torch.from_numpy(block).to(dictionary.norm_F.device)

    if dictionary.activation == "batch_topk":
        found = calibrate(dictionary, blocks, guess=guess)
        logger.info("threshold %.4g: L0 %.2f on select, k %d", *found, dictionary.k)
        return replace(dictionary, gate=Weighted(found.threshold), l0=found.l0)
    gated = replace(dictionary, gate=_learned_gate(dictionary))
    l0 = mean_l0(gated, blocks())
    logger.info("L0 %.2f on select, k %d", l0, dictionary.k)
    return replace(gated, l0=l0)


def _learned_gate(dictionary: Dictionary) -> Gate:
    """Return the gate of an activation function that needs no calibration."""
    if dictionary.activation == "topk":
        return TopK(dictionary.k)
    if dictionary.activation == "jumprelu":
        return PerFeature(dictionary.weights.thresholds.exp())
    return Weighted(0.0)
