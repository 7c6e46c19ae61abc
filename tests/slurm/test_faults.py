"""What happens to jobs on a cluster, and what Snakemake and the profile make of it."""

import re
from pathlib import Path

from deepseemoe.runtime.endings import endings


def made(faulty, name: str) -> list[str]:
    """Return what a job wrote: its node, and what it had asked for."""
    return (faulty.folder / f"faults/{name}.txt").read_text().split()


def told(text: str, rule: str) -> list[str]:
    """Return the messages of a rule's failures."""
    return re.findall(rf"^Error in rule {rule}:\n    message: (.*?)For", text, re.MULTILINE)


def test_a_cancelled_job_is_tried_again(faulty):
    text = faulty.finished()
    (line,) = told(text, "cancelled")
    assert "failed, SLURM status is: 'CANCELLED'" in line
    assert made(faulty, "cancelled") == ["n2", "2000"]


def test_the_job_of_a_node_that_died_goes_on_elsewhere(faulty):
    text = faulty.finished()
    assert not told(text, "on_dying_node"), "SLURM itself puts it back into the queue"
    assert len(made(faulty, "on_dying_node")) == 2
    (log,) = (faulty.folder / "logs/slurm/rule_on_dying_node").glob("*.log")
    assert log.stat().st_size


def test_a_job_over_its_time_is_tried_again_with_twice_as_much(faulty):
    text = faulty.finished()
    (line,) = told(text, "over_time")
    assert "SLURM status is: 'TIMEOUT'" in line
    assert made(faulty, "over_time") == ["n2", "2"]


def test_a_job_over_its_memory_is_tried_again_with_twice_as_much(faulty):
    text = faulty.finished()
    (line,) = told(text, "over_memory")
    assert "SLURM status is: 'FAILED'" in line, "OUT_OF_MEMORY where the cluster has cgroups"
    assert "Exceeded job memory limit" in text
    assert made(faulty, "over_memory") == ["n2", "1000"]


def test_each_failure_is_one_line(faulty):
    faulty.finished()
    (log,) = (faulty.folder / ".snakemake/log").glob("*.log")
    lines = {line.partition(",")[0]: line for line in endings(Path(log))}
    assert "it took more memory than it had asked for" in lines["rule over_memory"]
    assert "it took longer than it had asked for" in lines["rule over_time"]
    assert "somebody cancelled it" in lines["rule cancelled"]
