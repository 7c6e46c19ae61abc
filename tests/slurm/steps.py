"""What the nodes recorded: which GPUs each step was granted, from when to when."""

from typing import NamedTuple

import cluster


class Step(NamedTuple):
    """One step of a job, on its node."""

    job: str
    node: str
    gpus: tuple[str, ...]
    begin: float
    end: float

    def meets(self, other: "Step") -> bool:
        """Return whether both ran at one time."""
        return self.begin < other.end and other.begin < self.end


def recorded() -> list[Step]:
    """Return the steps in which Snakemake ran jobs; those without an end were killed."""
    begun, steps = {}, []
    for line in (cluster.FOLDER / "log/steps").read_text().splitlines():
        moment, what, node, step, gpus = line.split()
        job, _, number = step.partition(".")
        if not number:
            continue  # the batch script, around the step
        if what == "start":
            begun[job, node] = float(moment)
        elif (job, node) in begun:
            granted = tuple(filter(None, gpus.removeprefix("gpus=").split(",")))
            steps.append(Step(job, node, granted, begun.pop((job, node)), float(moment)))
    return steps
