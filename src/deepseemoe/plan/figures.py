"""The numbers of a plan, each with its unit and with how it comes about."""

from typing import Any, Literal, NamedTuple

GIB = 2**30
MIB = 2**20
TIB = 2**40
BILLION = 1e9

RESERVE_GIB = 3
"""Of a GPU, for CUDA itself, its kernels, and memory in pieces; an 80 GB card has 79.6 GiB."""

Unit = Literal["bytes", "parameters", "tokens", "tokens/s", "hours", "share", "USD"]


class Figure(NamedTuple):
    """One number. `how` says what it is made of; an estimate holds parts that were not counted."""

    name: str
    value: float
    unit: Unit
    how: str
    is_estimate: bool = False

    def plain(self) -> dict[str, Any]:
        """Return the figure as plain data, for JSON."""
        return {
            "name": self.name.strip(),
            "value": self.value,
            "unit": self.unit,
            "estimate": self.is_estimate,
            "how": self.how,
        }


class Section(NamedTuple):
    """Figures that belong together."""

    title: str
    figures: tuple[Figure, ...]


def shown(figure: Figure) -> str:
    """Return the value for people, with `~` before an estimate."""
    return "~" * figure.is_estimate + _FORMS[figure.unit](figure.value)


def shown_bytes(n_bytes: float) -> str:
    """Return bytes in the unit that leaves a readable number."""
    if n_bytes >= TIB:
        return f"{n_bytes / TIB:,.2f} TiB"
    if n_bytes >= GIB:
        return f"{n_bytes / GIB:,.2f} GiB"
    return f"{n_bytes / MIB:,.1f} MiB" if n_bytes >= MIB else f"{n_bytes:,.0f} B"


def shown_count(count: float) -> str:
    """Return a count, in billions or millions where it is large."""
    if count >= BILLION:
        return f"{count / BILLION:,.3f} bn"
    return f"{count / 1e6:,.2f} M" if count >= 1e6 else f"{count:,.0f}"


def shown_hours(hours: float) -> str:
    """Return hours, or minutes where they are few."""
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:,.1f} min"


_FORMS = {
    "bytes": shown_bytes,
    "parameters": shown_count,
    "tokens": shown_count,
    "tokens/s": lambda value: f"{value:,.0f} /s",
    "hours": shown_hours,
    "share": lambda value: f"{value:.1%}",
    "USD": lambda value: f"${value:,.2f}",
}
