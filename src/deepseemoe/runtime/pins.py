"""What a job asks of GPUs, from its rule through the scheduler to its lease.

A job asks for pins, stage by stage: numbers of GPUs, or None for any. Snakemake hands jobs numbers
and texts; a text would have to be the same for all members of a group job, so pins travel as one
number: a digit a pin in base 32, and a 0 between two stages.
"""

from collections.abc import Sequence
from typing import NamedTuple

from deepseemoe.config.devices import N_NAMED, DevicesConfig, Pin, n_distinct

BASE = N_NAMED + 2
Stages = tuple[tuple[Pin, ...], ...]
"""The pins of each stage of a job that computes on GPUs."""


def encoded(stages: Sequence[Sequence[Pin]]) -> int:
    """Return pins as a number; 0 where there are none."""
    number = 0
    for place, pins in enumerate(pins for pins in stages if pins):
        for digit in [0] * (place > 0) + [1 if pin is None else pin + 2 for pin in pins]:
            number = number * BASE + digit
    return number


def decoded(number: int) -> Stages:
    """Return the pins that `encoded` made a number of."""
    stages: list[list[Pin]] = [[]]
    while number:
        number, digit = divmod(number, BASE)
        if digit:
            stages[0].insert(0, None if digit == 1 else digit - 2)
        else:
            stages.insert(0, [])
    return tuple(tuple(pins) for pins in stages if pins)


def resources(
    devices: DevicesConfig, stages: Sequence[str], *, n_here: int, most: int | None = None
) -> dict[str, int]:
    """Return the Snakemake resources of a job that does `stages`, where `n_here` GPUs are at hand.

    Of each stage's GPUs it takes `most`, the first of them; nothing where all compute on CPUs.
    `gpu` and `nodes` are what a cluster is asked for: two GPUs may be granted on two nodes, where
    one process cannot use them. `gpus_here` and `cuda0`, … are what this machine has once.
    """
    asked = [devices.pins(stage)[:most] for stage in stages]
    pins = [pin for of_stage in asked for pin in of_stage]
    if not pins:
        return {}
    n_gpus = n_distinct(pins)
    found = {"gpu": n_gpus, "pins": encoded(asked)} | ({"nodes": 1} if n_gpus > 1 else {})
    if n_here:
        named = {pin % n_here for pin in pins if pin is not None}
        found |= {f"cuda{number}": 1 for number in sorted(named)}
        found["gpus_here"] = min(len(named) + pins.count(None), n_here)
    return found


class Share(NamedTuple):
    """Which GPUs a job takes: the named ones, in order, and so many others."""

    named: tuple[int, ...]
    n_others: int


def share(stages: Stages, n_here: int) -> Share:
    """Return what a job with these pins takes of `n_here` GPUs, 1 at least."""
    pins = [pin for of_stage in stages for pin in of_stage]
    named = tuple(dict.fromkeys(pin % n_here for pin in pins if pin is not None))
    return Share(named, min(pins.count(None), n_here - len(named)))


def places(stages: Stages, n_here: int, others: Sequence[int]) -> list[list[int]]:
    """Return the GPU of each pin, stage by stage; `others` are those that "any" pins were given.

    Where pins are more than GPUs, the last "any" pins share the last GPU that came before them.
    """
    free = list(others)
    named = share(stages, n_here).named
    found: list[list[int]] = []
    last = (*named, *others)[-1]
    for of_stage in stages:
        found.append([])
        for pin in of_stage:
            last = pin % n_here if pin is not None else free.pop(0) if free else last
            found[-1].append(last)
    return found
