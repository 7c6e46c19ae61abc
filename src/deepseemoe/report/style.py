"""One look for all figures: type, colours, titles that state a finding, files with stable bytes.

Figures stand on their own: text is drawn as paths, so that a viewer without the font sees the same,
and `$` in a label is a dollar sign, since labels and domains come from text that nobody checked.
"""

import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

from deepseemoe.runtime.files import growing

INK, MUTED, FAINT, PAPER = "#1f2328", "#656d76", "#e6e8eb", "#ffffff"
WIDTH = 9.1
"""Inches of a figure that needs no more: two panels and a legend."""
# Okabe and Ito 2008, without the yellow that white paper swallows.
CATEGORIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
DIVERGING = mpl.colormaps["RdBu_r"].with_extremes(bad=FAINT)

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#afb8c1",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": "#afb8c1",
    "ytick.color": "#afb8c1",
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": PAPER,
    "savefig.dpi": 160,
    "image.interpolation": "none",
    "svg.fonttype": "path",
    "svg.hashsalt": "deepseemoe",
}
# Files name no date; the same figure gives the same bytes.
METADATA = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Return `draw` with the style of this module in force, and the caller's left as it was."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the ending of `path` names, whole or not at all."""
    kind = path.suffix[1:]
    with mpl.rc_context(STYLE), growing(path) as partial:
        figure.savefig(partial, format=kind, metadata=METADATA[kind])


def headline(figure: Figure, finding: str, how_to_read: str = "") -> None:
    """Put a finding above a figure and how to read it below, both wrapped to its width."""
    width = figure.get_figwidth()
    text = textwrap.fill(finding, int(width * 10.5))
    figure.suptitle(text, x=0.012, ha="left", fontsize=11, fontweight="bold")
    if how_to_read:
        note = textwrap.fill(how_to_read, int(width * 15.5))
        figure.supxlabel(note, x=0.012, ha="left", fontsize=8, color=MUTED)


def width_of(n_panels: int) -> float:
    """Return the width in inches of a row of panels with a legend beside it."""
    return max(1.9 + 3.6 * n_panels, 7.2)


def spaced(figure: Figure) -> Figure:
    """Keep panels far enough apart that the last tick of one and the first of the next differ."""
    figure.get_layout_engine().set(w_pad=0.09)
    return figure


def depth_colours(n: int) -> list:
    """Return `n` colours that tell few things apart, or, beyond six, run from shallow to deep."""
    if n <= len(CATEGORIES):
        return list(CATEGORIES[:n])
    return list(mpl.colormaps["viridis"](np.linspace(0, 0.88, n)))


def legend_right(figure: Figure, axes: Axes, title: str) -> None:
    """Put the legend of one panel outside the figure's panels, where it covers no data."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1:
        legend = figure.legend(handles, names, loc="outside right center", title=title)
        legend._legend_box.align = "left"


def log_axis(axis, subs: Sequence[int] = (1, 2, 5)) -> None:
    """Give a logarithmic axis plain numbers at 1, 2 and 5 times the powers of ten."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def token_axis(axis) -> None:
    """Write counts of tokens as 500k or 2M."""
    axis.set_major_formatter(EngFormatter(sep=""))
    axis.set_major_locator(mpl.ticker.MaxNLocator(5))


def empty(axes: Axes, why: str) -> None:
    """Say in the middle of a panel why it shows nothing."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=MUTED)


def short(text: str, width: int) -> str:
    """Return text on one line that the font can draw, cut to `width` characters."""
    shown = "".join(map(_drawable, text))
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def _drawable(character: str) -> str:
    if character in "\n\r":
        return "⏎"
    if unicodedata.category(character)[0] == "C":
        return "·"
    return character if ord(character) in _glyphs() else "□"


@cache
def _glyphs() -> frozenset[int]:
    """Return the code points of the font; others would be drawn as boxes with a warning each."""
    return frozenset(FT2Font(font_manager.findfont(STYLE["font.family"])).get_charmap())
