"""Paired timing: all contestants run in every round, so that a busy machine slows them alike.

Each round reverses the order of the last one. What is reported is the median over rounds; ratios
are medians of the ratios *within* a round, which hold still where the machine does not. A benchmark
file builds `Case`s and ends in `main`.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

OURS, FLOOR = "ours", "floor"


class Case(NamedTuple):
    """Seconds of each contestant in each round: `ours`, `floor`, and peers under their names.

    `amount` is the work of one round where `unit` is a rate, as 134 for "MB/s"; None reports the
    time itself, in `unit` "s" or "ms".
    """

    case: str
    seconds: Mapping[str, Sequence[float]]
    unit: str = "ms"
    amount: float | None = None

    def value(self, name: str) -> float:
        """Return the median over rounds, in `unit`."""
        seconds = median(self.seconds[name])
        if self.amount is not None:
            return self.amount / seconds
        return seconds * {"s": 1.0, "ms": 1e3, "us": 1e6}[self.unit]

    def speed_against(self, name: str) -> float:
        """Return how many times as fast `ours` is as `name`: the median of paired ratios."""
        pairs = zip(self.seconds[name], self.seconds[OURS], strict=True)
        return median(theirs / ours for theirs, ours in pairs)

    def record(self) -> dict[str, object]:
        """Return the case as plain data, peers apart; a floor that was not measured is null."""
        peers = [name for name in self.seconds if name not in (OURS, FLOOR)]
        return {
            "case": self.case,
            "ours": self.value(OURS),
            "floor": self.value(FLOOR) if FLOOR in self.seconds else None,
            "peers": {name: self.value(name) for name in peers},
            "unit": self.unit,
        }


def compete(
    contestants: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 7,
    warmup: int = 1,
    before: Callable[[str], object] | None = None,
) -> dict[str, list[float]]:
    """Return the wall seconds of each contestant in each round; `before(name)` is not timed."""
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warmup, rounds):
        for name in names if turn % 2 else reversed(names):
            if before:
                before(name)
            start = time.perf_counter()
            contestants[name]()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main(
    cases: Callable[..., Sequence[Case]], description: str, *, rounds: int = 7, **options: Any
) -> None:
    """Run `cases(rounds)`, print them as a table, and write them where `--json FILE` asks.

    `options` are further flags with their defaults, which `cases` takes by name, as only="".
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the medians as a list")
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds (default: %(default)s)")
    for name, default in options.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(default), default=default, help="default: %(default)r")
    given = parser.parse_args()
    results = cases(given.rounds, **{name: getattr(given, name) for name in options})
    print(table(results))
    print(machine())
    if given.json:
        text = json.dumps([case.record() for case in results], indent=2)
        given.json.write_text(text + "\n", encoding="utf-8")


def table(cases: Sequence[Case]) -> str:
    """Return the cases as text: one row for each contestant, with our speed relative to it."""
    lines = [f"{'case':<24} {'contestant':<30} {'median':>12} {'unit':<8} {'ours is':>8}"]
    for case in cases:
        for name in case.seconds:
            ratio = "" if name == OURS else f"{case.speed_against(name):7.2f}x"
            value = f"{case.value(name):12,.1f}"
            lines.append(f"{case.case:<24} {name:<30} {value} {case.unit:<8} {ratio:>8}")
    return "\n".join(lines)


def machine() -> str:
    """Return what the numbers depend on: processor count, load, Python."""
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} CPUs, load {load:.1f}, Python {platform.python_version()}"
