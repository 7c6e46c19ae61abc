"""Which features are described first."""

import numpy as np
import pyarrow as pa
import pytest

from deepseemoe.config import LabelsConfig
from deepseemoe.features.schemas import DENSITY
from deepseemoe.labels.value import by_value
from deepseemoe.runtime.tables import Column, write_table

N_ACTIVE = np.array([500, 5, 40, 900, 40, 80])


@pytest.fixture
def density(tmp_path):
    columns = {column.name: np.zeros(len(N_ACTIVE)) for column in DENSITY}
    columns |= {"feature": np.arange(len(N_ACTIVE)), "n_active": N_ACTIVE}
    write_table(tmp_path / "density.parquet", DENSITY, columns, {})
    return tmp_path / "density.parquet"


@pytest.fixture
def reads(tmp_path):
    columns = (Column("feature", pa.uint32(), "", ""), Column("tier", pa.string(), "", ""))
    pairs = {"feature": [5, 2, 5, 4, 1, 0], "tier": ["", "A", "B", "A", "A", "C"]}
    write_table(tmp_path / "reads.parquet", columns, pairs, {})
    return tmp_path / "reads.parquet"


def test_tiers_come_first_then_frequency(density, reads):
    found = by_value(density, reads, LabelsConfig())
    assert found.features.tolist() == [2, 4, 5, 0, 3]
    assert found.tiers == ["A", "A", "B", "C", ""]
    assert found.n_active.tolist() == [40, 40, 80, 500, 900]


def test_without_a_map_frequency_decides(density):
    assert by_value(density, None, LabelsConfig()).features.tolist() == [3, 0, 5, 2, 4]


def test_at_most_so_many_are_described(density, reads):
    assert by_value(density, reads, LabelsConfig(max_features=3)).features.tolist() == [2, 4, 5]


def test_rare_features_are_left_out_even_of_the_best_tier(density, reads):
    assert 1 not in by_value(density, reads, LabelsConfig(min_activations=6)).features
