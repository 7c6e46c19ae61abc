"""A run that is killed again and again, at random, in every stage, ends in the bytes of another."""

import sys

from finished import CONFIG
from killing import Killer, durations
from runs import digests, fault_seed, prepare

LEAST = 20
"""Kills."""


def tell(capsys, *lines):
    """Print lines where a person sees them, also of a test that passes."""
    with capsys.disabled():
        sys.stdout.write("".join(f"\n{line}" for line in lines))


def bytes_of(workdir):
    """Return the digests of a run's files but of answers, whose order is that of their coming."""
    found = digests(workdir / "results")
    return {name: value for name, value in found.items() if "/answers/" not in name}


def test_a_run_that_is_killed_in_every_stage_ends_in_the_same_bytes(
    undisturbed, labelled, tmp_path, capsys
):
    number = fault_seed()
    tell(capsys, f"DEEPSEEMOE_FAULT_SEED={number}")
    lasting = durations(undisturbed)
    killer = Killer(
        prepare(tmp_path / "killed"), CONFIG, lasting, seed=number, arguments=labelled.arguments
    )
    with labelled.server() as server:
        try:
            said = killer.run()
        finally:
            tell(
                capsys,
                *(f"killed {kind} at {rule}, with {beside}" for rule, kind, beside in killer.kills),
            )
        assert server.repeated() == []  # what was answered before a kill is not paid for again
    assert bytes_of(killer.workdir) == bytes_of(undisturbed), number
    assert len(killer.kills) >= LEAST, number
    assert {"train_model", "train_dictionary", "label_features", "label_experts"} <= set(
        killer.hits
    )
    assert len(set(lasting) - set(killer.hits)) <= 3, sorted(set(lasting) - set(killer.hits))
    assert "Traceback" not in said
