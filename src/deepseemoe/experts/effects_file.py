"""Reading effects.parquet back as tables (F, E), a layer at a time."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from deepseemoe.runtime.tables import read_manifest

PAIR = ("layer", "feature", "expert")


class EffectsFile:
    """The effects of one dictionary, which measure_effects wrote, and of which layers they are."""

    def __init__(self, path: Path):
        self.path = path
        self.manifest = read_manifest(path)
        self.layers = tuple(self.manifest["layers"])
        self.n_experts = int(self.manifest["n_experts"])

    def of(self, layer: int, features_F: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of one layer, each (F, E).

        Raises ValueError where they were measured for other features.
        """
        table = pq.read_table(self.path, filters=[("layer", "==", layer)])
        shape = features_F.size, self.n_experts
        found = table["feature"].to_numpy()
        if not np.array_equal(found, np.repeat(features_F, self.n_experts)):
            raise ValueError(
                f"{self.path}: effects of {np.unique(found).size} features at layer {layer}, but "
                f"{features_F.size} have support; measure them again (measure_effects)"
            )
        names = [name for name in table.column_names if name not in PAIR]
        return {name: table[name].to_numpy(zero_copy_only=False).reshape(shape) for name in names}
