"""Training of one dictionary on one window: activations in; weights, configuration, curves out.

`begin` and `finish` are the same for stores and for a running model (`live.py`); only the batches
between them differ.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config.dictionary import DictionaryConfig
from deepseemoe.dictionary.batches import (
    Batches,
    CachedBatches,
    Sites,
    open_stores,
    prefetched,
)
from deepseemoe.dictionary.curves import mirror
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.form import hook_points, parts_in, read_and_written
from deepseemoe.dictionary.gating import folded, gated
from deepseemoe.dictionary.recipe import Recipe
from deepseemoe.dictionary.session import Checkpoints, Session
from deepseemoe.dictionary.shards import shard_of
from deepseemoe.dictionary.start import untrained
from deepseemoe.dictionary.trainer import Trainer
from deepseemoe.names import Window
from deepseemoe.runtime.checkpoint_paths import checkpoint_path
from deepseemoe.runtime.files import growing
from deepseemoe.runtime.tables import digest

UNSEEN = {"wandb_project", "checkpoint_steps"}
"""Keys of the configuration that change no output, so none of them names it either."""


class Leg(NamedTuple):
    """The part of a training that one job does: of how many steps which, and what came before."""

    steps: Callable[[int], range] = range
    before: Path | None = None
    """The checkpoint of the leg before; None for the first."""


WHOLE = Leg()
"""All of a training."""


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
    leg: Leg = WHOLE,
) -> tuple[Session, Dictionary]:
    """Return a session at its last checkpoint, and the dictionary whose weights it trains.

    `leg` says where it begins and ends, for a training that several jobs share. `data` is plain
    data that names what the batches are made of, so that a checkpoint of other data is not used;
    `shown` holds what is open until training ends. With several ranks the session trains one's
    share of the features, and rank 0 has the dictionary, for the others to fill.
    """
    start = seed if task.config.seed is None else task.config.seed
    home = device if n_ranks == 1 else "cpu"
    dictionary = untrained(task.config, task.window, batches, seed=start).to(home)
    recipe = Recipe.of(task.config, d_model=dictionary.d_model, n_slots=dictionary.n_slots)
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
    every_steps, steps = task.config.checkpoint_steps, leg.steps(recipe.n_steps)
    path = checkpoint_path(task.folder)
    checkpoints = Checkpoints(path, run, every_steps, shard, steps, leg.before)
    project = task.config.wandb_project if rank == 0 else None
    rows = shown.enter_context(mirror(project, task.name, task.manifest))
    return Session(trainer, checkpoints, rows, name=task.name, device=device), dictionary


def finish(
    task: Task, session: Session, dictionary: Dictionary, select: Sequence[ActivationStore]
) -> Dictionary:
    """Set the gate of what was trained, and write its folder."""
    curves = session.curves
    trained = folded(dictionary) if task.config.pre_bias else dictionary
    trained = gated(trained, select, guess=curves.rows[-1]["threshold"]).to("cpu")
    with growing(task.folder) as partial:
        trained.save(partial, manifest=task.manifest)
        curves.write(partial / "training.parquet", task.manifest)
    return trained
