"""Training of small dictionaries on planted stores."""

from planted_stores import directions

from deepseemoe.config.dictionary import DictionaryConfig
from deepseemoe.dictionary.train import train_dictionary
from deepseemoe.names import Window

WINDOW = Window(0, 1)
TRAIN = {"n_tokens": 150_000, "batch_tokens": 512, "learning_rate": 1e-2, "init_norm": 0.2}
QUICK = {"n_tokens": 20_000, "batch_tokens": 500, "d_dict": 32, "k": 3, "learning_rate": 3e-3}
READS = directions(2)
WRITES = directions(2, seed=1)


class KilledError(Exception):
    """Stands for a kill in the middle of training."""


def train(stores, select, folder, **settings):
    """Train a dictionary; settings are those of its configuration, and window and seed."""
    options = {"window": WINDOW, "seed": 0, "manifest": {"run": "test"}}
    options |= {name: settings.pop(name) for name in ("window", "seed") if name in settings}
    return train_dictionary(
        DictionaryConfig(**settings), stores=stores, select_stores=select, folder=folder, **options
    )


def files(folder):
    """Return the bytes of all files of a folder by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
