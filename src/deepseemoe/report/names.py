"""Which figures a run has, known from its configuration alone.

The Snakefile reads this file, so it imports the standard library and `names` only. The order is the
order of the summary page: what the run found, then what that rests on.
"""

from typing import TYPE_CHECKING, NamedTuple

from deepseemoe.names import Window

if TYPE_CHECKING:
    from deepseemoe.config import RunConfig


class Trained(NamedTuple):
    """A named dictionary on one window of layers."""

    dictionary: str
    window: Window

    @property
    def stem(self) -> str:
        """The end of the name of a figure that shows this one only, as `crosscoder_L00-L01`."""
        return f"{self.dictionary}_{self.window}"

    def __str__(self) -> str:
        return f"{self.dictionary} {self.window}"


class FigureGroup(NamedTuple):
    """Figures of one kind: they share a caption (`workflow/report/{name}.rst`) and a category."""

    name: str
    category: str
    stems: tuple[str, ...]


def trained_dictionaries(run: "RunConfig") -> tuple[Trained, ...]:
    """Return every dictionary on every window, in the order of the configuration."""
    return tuple(Trained(name, window) for name in run.dictionaries for window in run.windows)


def figure_groups(run: "RunConfig") -> tuple[FigureGroup, ...]:
    """Return the figures of a run by kind; file names are `{stem}.svg`."""
    maps = tuple(f"map_heatmap_{trained.stem}" for trained in trained_dictionaries(run))
    groups = [
        FigureGroup("map_heatmap", "Expert map", maps),
        _single("map_concentration", "Expert map"),
        _single("map_evidence", "Expert map"),
        _single("prediction", "Expert map"),
        _single("expert_load", "Routing"),
        _single("domain_load", "Routing"),
        _single("coactivation", "Routing"),
        _single("reconstruction", "Dictionaries"),
        _single("density", "Dictionaries"),
        _single("label_scores", "Labels"),
    ]
    if not all(entry.imported for entry in run.dictionaries.values()):
        groups.append(_single("training_dictionaries", "Training"))
    if run.model.source == "nanomoe" and not run.model.random_weights:
        groups.append(_single("training_model", "Training"))
    return tuple(groups)


def figure_names(run: "RunConfig") -> list[str]:
    """Return the stems of all figures of a run."""
    return [stem for group in figure_groups(run) for stem in group.stems]


def _single(name: str, category: str) -> FigureGroup:
    return FigureGroup(name, category, (name,))
