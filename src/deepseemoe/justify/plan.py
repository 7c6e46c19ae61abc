"""Which windows are tried, and which dictionaries each arm of a window needs.

The Snakefile reads this file, so it imports the standard library, `names` and `config` only. With
f features and k active ones for each layer (`justify.d_dict`, `justify.k`), a window of W layers
is coded by

    crosscoder      one, W f features, W k active
    features-l0     W SAEs of f features, k active each: equal features, equal total L0
    features-pairs  W SAEs of f features, W k active each: equal features, equal active
                    (feature, layer) pairs, W² k
    cost-l0         W SAEs of W f features, k active each: equal parameters, equal training FLOPs
    cost-pairs      W SAEs of W f features, W k active each
    copy            one SAE of the centre layer, W f features, W k active, decoded at each layer
    shuffled        a crosscoder of layers that do not belong together
    random          a crosscoder of a model with random weights

The crosscoder's matrices hold 2 · W f · W D numbers and its encoder product takes W f · W D
multiplications a token; W SAEs of W f features take just as many of both. So *equal parameters*
and *equal training FLOPs* are one arm (biases, 1/(2 D) of a matrix, aside).

SAEs of one layer, size, k and seed are one dictionary wherever they occur: the arm features-l0 of
every window is made of the crosscoders of width 1.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from deepseemoe.names import Window

if TYPE_CHECKING:
    from deepseemoe.config import JustifyConfig, RunConfig

CROSSCODER = "crosscoder"
SEPARATE = ("features-l0", "features-pairs", "cost-l0", "cost-pairs")
ALL_SEEDS = (CROSSCODER, *SEPARATE)
"""Arms whose stability over seeds is measured."""
MAX_COPIED = 16_384
"""Features of the arm `copy`, whose least squares hold a square matrix of them: 1 GiB."""


class Member(NamedTuple):
    """One dictionary to train, whatever its seed: on which activations, where, how large."""

    source: str
    """`trained`, `shuffled` or `random`: the model's activations, or those of a null."""
    window: Window
    d_dict: int
    k: int

    @property
    def arm(self) -> str:
        """Its name in paths, as `trained-F256-k8`."""
        return f"{self.source}-F{self.d_dict}-k{self.k}"

    @classmethod
    def parse(cls, arm: str, window: str) -> "Member":
        """Read the two wildcards of a path."""
        source, features, k = arm.split("-")
        return cls(source, Window.parse(window), int(features[1:]), int(k[1:]))


def justified_layers(run: "RunConfig") -> Window | None:
    """Return the layers that windows are laid in; None where the configuration cannot know them."""
    if run.justify.layers is not None or run.model.source == "hub":
        return run.justify.layers
    return Window(0, run.model.architecture.n_layers - 1)


def widths_of(config: "JustifyConfig", layers: Window) -> tuple[int, ...]:
    """Return the widths that fit into `layers`, rising; 1 is always among them."""
    depth = len(layers.layers)
    widths = {depth if width == "all" else width for width in config.widths} | {1}
    return tuple(sorted(width for width in widths if width <= depth))


def windows_of(config: "JustifyConfig", layers: Window) -> tuple[Window, ...]:
    """Return the windows of each width at each place, narrow ones first."""
    return tuple(
        Window(first, first + width - 1)
        for width in widths_of(config, layers)
        for first in range(layers.first, layers.last - width + 2)
    )


def width_of(window: Window) -> int:
    """Return how many layers a window spans."""
    return len(window.layers)


def arms_of(config: "JustifyConfig", window: Window) -> tuple[str, ...]:
    """Return the arms of a window; at width 1 all of them but `random` are the crosscoder."""
    wanted = [arm for arm in config.arms if width_of(window) > 1 or arm == "random"]
    return (CROSSCODER, *wanted)


def members(config: "JustifyConfig", arm: str, window: Window) -> tuple[Member, ...]:
    """Return the dictionaries that an arm is made of, in order of layers."""
    width = width_of(window)
    small, large = (config.d_dict, width * config.d_dict)
    few, many = (config.k, width * config.k)
    if arm in ("shuffled", "random"):
        return (Member(arm, window, large, many),)
    if arm == CROSSCODER:
        return (Member("trained", window, large, many),)
    if arm == "copy":
        centre = window.layers[(width - 1) // 2]
        return (Member("trained", Window(centre, centre), large, many),)
    size, active = arm.split("-")
    d_dict = small if size == "features" else large
    k = few if active == "l0" else many
    return tuple(Member("trained", Window(n, n), d_dict, k) for n in window.layers)


def seeds_of(config: "JustifyConfig", arm: str) -> tuple[int, ...]:
    """Return the seeds that an arm is trained with."""
    is_null = arm in ("shuffled", "random")
    return config.seeds[: config.null_seeds] if is_null else config.seeds


def evaluated(config: "JustifyConfig", window: Window, weights: str, seed: int) -> tuple[str, ...]:
    """Return the arms that one job evaluates: all on the trained model, or those on the random."""
    return tuple(
        arm
        for arm in arms_of(config, window)
        if (arm == "random") == (weights == "random") and seed in seeds_of(config, arm)
    )


def evaluations(run: "RunConfig") -> Iterator[tuple[str, Window, int]]:
    """Yield weights (`trained` or `random`), window and seed of each evaluation."""
    layers = justified_layers(run)
    for window in windows_of(run.justify, layers) if layers else ():
        for weights in ("trained", "random"):
            for seed in run.justify.seeds:
                if evaluated(run.justify, window, weights, seed):
                    yield weights, window, seed


def plan_problems(run: "RunConfig") -> Iterator[str]:
    """Yield what keeps the target `justify` from running."""
    layers, config = justified_layers(run), run.justify
    if run.model.random_weights:
        yield "justify: model.random_weights leaves no trained model to judge; set it to false"
        return
    if layers is None:
        yield "justify.layers: name the layers to lay windows in, as L08-L15, for `source: hub`"
        return
    widest = max(widths_of(config, layers))
    if config.k * widest >= config.d_dict and any(a.endswith("-pairs") for a in config.arms):
        yield (
            f"justify: features-pairs has {config.k * widest} of {config.d_dict} features active "
            "at the widest window; raise d_dict or lower k or widths"
        )
    if "copy" in config.arms and config.d_dict * widest > MAX_COPIED:
        yield (
            f"justify: copy takes at most {MAX_COPIED} features, and the widest window has "
            f"{config.d_dict * widest}; leave it out of arms"
        )
