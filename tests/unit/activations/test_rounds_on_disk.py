"""No more rounds are on the disk than the bound says, whatever an earlier training left there."""

import pytest

from deepseemoe.activations.rounds import remove_others


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        (0, ["0000.partial", "0001"]),
        (1, ["0000.partial", "0001", "0002"]),
        (5, ["0004", "0005.partial"]),
        (9999, ["10000"]),
    ],
)
def test_rounds_that_are_no_neighbours_are_removed(number, kept, tmp_path):
    for name in ("0000.partial", "0001", "0002", "0004", "0005.partial", "0007", "10000"):
        (tmp_path / name).mkdir()
    remove_others(tmp_path, number=number)
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


def test_nothing_is_removed_where_no_round_was_made(tmp_path):
    remove_others(tmp_path / "rounds", number=3)
