"""Training of one dictionary of the experiment: as any other, or on a null's activations."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config import DictionaryConfig, JustifyConfig
from deepseemoe.dictionary.batches import CachedBatches, Sites, open_stores, prefetched
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.train import Task, begin, finish
from deepseemoe.justify.plan import Member
from deepseemoe.justify.shuffled import ShuffledStore


def dictionary_config(config: JustifyConfig, member: Member) -> DictionaryConfig:
    """Return how a member is trained; all members share everything but their size."""
    return DictionaryConfig(
        d_dict=member.d_dict,
        k=member.k,
        n_tokens=config.n_tokens,
        batch_tokens=config.batch_tokens,
        learning_rate=config.learning_rate,
        init_norm=config.init_norm,
        checkpoint_steps=config.checkpoint_steps,
    )


def train_member(
    config: JustifyConfig,
    *,
    member: Member,
    stores: Sequence[Path],
    select_stores: Sequence[Path],
    folder: Path,
    seed: int,
    device: str = "cpu",
) -> Dictionary:
    """Train a member on `stores`, set its threshold on `select_stores`, and write `folder`.

    Batches of one seed hold the same tokens in every member. Raises ValueError as
    `train_dictionary` does.
    """
    own = dictionary_config(config, member)
    task = Task.of(own, member.window, folder, {"source": member.source, "seed": seed})
    train, select = (
        opened(paths, task.sites, member.source, seed) for paths in (stores, select_stores)
    )
    sites = Sites.of(train, task.read_and_written[0])
    batches = CachedBatches(
        train, reads=sites, writes=sites, batch_tokens=own.batch_tokens, seed=seed
    )
    data = [store.manifest for store in train]
    with ExitStack() as shown:
        session, dictionary = begin(task, batches, data=data, seed=seed, device=device, shown=shown)
        recipe = session.trainer.recipe
        session.train(prefetched(batches, session.trainer.step, recipe.n_steps))
    trained = finish(task, session, dictionary, select)
    session.checkpoints.clear()
    return trained


def opened(
    paths: Sequence[Path], sites: Sequence[str], source: str, seed: int
) -> list[ActivationStore] | list[ShuffledStore]:
    """Return stores as a member of `source` reads them."""
    stores = open_stores(paths, sites)
    return [ShuffledStore(s, seed=seed) for s in stores] if source == "shuffled" else stores
