"""The key numbers of a run: a row for each dictionary on each window."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from deepseemoe.report.maps import Map
from deepseemoe.report.names import Trained
from deepseemoe.report.reconstruction import number
from deepseemoe.report.views import Accuracy


class KeyNumbers(NamedTuple):
    """What one dictionary amounts to; NaN where it was not measured."""

    dictionary: str
    window: str
    d_dict: int
    fvu: float
    l0: float
    k: int
    dead_fraction: float
    loss_recovered: float
    router_agreement: float
    n_tested: int
    n_kept: int
    n_called: int
    """Features that call at least one expert."""
    accuracy: float
    """Median balanced accuracy of the labels."""

    @property
    def kept_share(self) -> float:
        """Kept pairs over tested pairs."""
        return self.n_kept / self.n_tested if self.n_tested else float("nan")


def key_numbers(
    one: Trained,
    d_dict: int,
    metrics: Mapping[str, object],
    found: Map,
    accuracies: Mapping[int, Accuracy],
) -> KeyNumbers:
    """Return the row of one dictionary."""
    values = [accuracy.value for accuracy in accuracies.values()]
    return KeyNumbers(
        dictionary=one.dictionary,
        window=str(one.window),
        d_dict=d_dict,
        fvu=number(metrics["fvu"]),
        l0=number(metrics["l0"]),
        k=int(metrics["k"]),
        dead_fraction=number(metrics["dead_fraction"]),
        loss_recovered=number(metrics["loss_recovered"]),
        router_agreement=number(metrics["router_agreement"]),
        n_tested=found.n_tested,
        n_kept=len(found.kept["q"]),
        n_called=len(np.unique(found.kept["feature"][found.kept["lor"] > 0])),
        accuracy=float(np.median(values)) if values else float("nan"),
    )
