"""What to change where a run does not fit: changes are tried, and those that help are named.

Changes come in series, each from mild to drastic; of a series the first that helps is named. Each
is tried on its own, on the whole plan, so what is named does fit.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from deepseemoe.config import RunConfig
from deepseemoe.plan.limits import Problem

MOST = 4
"""Changes that are named for one problem."""

HALVINGS = range(1, 11)


class Change(NamedTuple):
    """A change of the configuration, as one would write it, and what it makes of the run."""

    written: str
    run: RunConfig


Series = Iterable[Change]
Refit = Callable[[RunConfig], tuple[Problem, ...]]
"""What does not fit of a changed run."""


def remedies(run: RunConfig, problem: Problem, refit: Refit) -> list[str]:
    """Return changes, each of which is enough for the problem to be gone; few, the mild first.

    Where none is, pairs of them: the first of some series, and what then helps.
    """
    single = _singles(run, problem, refit)
    if single:
        return single
    firsts = (next(iter(series), None) for series in _series(run, problem))
    pairs = (
        f"{first.written} and {second}"
        for first in firsts
        if first
        for second in _singles(first.run, problem, refit)
    )
    return list(islice(pairs, MOST))


def _singles(run: RunConfig, problem: Problem, refit: Refit) -> list[str]:
    helping = (_first_that_helps(series, problem.kind, refit) for series in _series(run, problem))
    return [change for change in helping if change][:MOST]


def _first_that_helps(series: Series, kind: str, refit: Refit) -> str | None:
    fits = (c.written for c in series if not any(p.kind == kind for p in refit(c.run)))
    return next(fits, None)


def _series(run: RunConfig, problem: Problem) -> Iterator[Series]:
    """Yield what can help against a problem of a kind, what costs least first."""
    kind = problem.kind
    if kind == "disk":
        yield _smaller_rounds(run) if run.batches.source == "cache" else ()
        yield [_changed(run, "batches", source="live")] * (run.batches.source == "cache")
        yield _fewer_tokens(run, "test")
        yield _fewer_tokens(run, "train") if run.batches.source == "cache" else ()
    several = {"activations", "evaluation", "experts"}
    several |= {"dictionary"} if run.batches.source == "cache" else set()
    if kind in several and run.devices.on_gpu(kind):
        n_gpus = run.devices.n_gpus(kind)
        yield [_changed(run, "devices", **{kind: n_gpus + more}) for more in range(1, 8)]
    if kind == "activations":
        yield [_changed(run, "activations", routing="needed")]
        yield _halved(run, "activations", "batch_sequences", least=1)
    if kind == "dictionary" and run.batches.source == "live":
        yield _halved(run, "batches", "buffer_tokens", least=2**16)
        yield [_changed(run, "batches", source="cache")]
    if kind == "dictionary" and run.batches.together != 1:
        yield [_changed(run, "batches", together=1)]
    yield _smaller_dictionaries(run)
    yield _fewer_windows(run)
    yield _fewer_layers(run)


def _changed(run: RunConfig, section: str, **values: object) -> Change:
    """Return the change of keys in a section."""
    part = getattr(run, section).model_copy(update=values)
    pairs = ", ".join(f"{key}: {value}" for key, value in values.items())
    return Change(f"{section}: {{{pairs}}}", run.model_copy(update={section: part}))


def _halved(run: RunConfig, section: str, key: str, *, least: int) -> Series:
    """Yield halves of a number until it is `least`."""
    halves = (getattr(getattr(run, section), key) // 2**n for n in HALVINGS)
    return (_changed(run, section, **{key: value}) for value in halves if value >= least)


def _smaller_rounds(run: RunConfig) -> Series:
    """Yield rounds of half the shards that are one now, of a quarter, and so on."""
    n_shards = len(run.rounds()[0].shards)
    for n in HALVINGS:
        if n_shards // 2**n:
            yield _changed(run, "batches", round_shards=n_shards // 2**n)


def _fewer_tokens(run: RunConfig, split: str) -> Series:
    """Yield halves of a split, in whole sequences."""
    length = run.corpus.sequence_length
    for n in HALVINGS:
        n_tokens = getattr(run.corpus.n_tokens, split) // 2**n // length * length
        if n_tokens:
            sizes = run.corpus.n_tokens.model_copy(update={split: n_tokens})
            changed = _changed(run, "corpus", n_tokens=sizes).run
            yield Change(f"corpus: {{n_tokens: {{{split}: {n_tokens}}}}}", changed)


def _smaller_dictionaries(run: RunConfig) -> Series:
    """Yield all dictionaries with half the features, a quarter, an eighth."""
    for n in HALVINGS[:3]:
        entries = {
            name: entry.model_copy(update={"d_dict": entry.d_dict // 2**n})
            for name, entry in run.dictionaries.items()
        }
        sizes = ", ".join(f"{name}: {{d_dict: {entry.d_dict}}}" for name, entry in entries.items())
        changed = run.model_copy(update={"dictionaries": entries})
        yield Change(f"dictionaries: {{{sizes}}}", changed)


def _fewer_windows(run: RunConfig) -> Series:
    """Yield the run with windows left out from the last on."""
    for n_kept in range(len(run.windows) - 1, 0, -1):
        yield _with_windows(run, run.windows[:n_kept])


def _fewer_layers(run: RunConfig) -> Series:
    """Yield the run with each window cut to its middle layer."""
    middles = [window.layers[len(window.layers) // 2] for window in run.windows]
    cut = tuple(
        window._replace(first=layer, last=layer)
        for window, layer in zip(run.windows, middles, strict=True)
    )
    if cut != run.windows:
        yield _with_windows(run, cut)


def _with_windows(run: RunConfig, windows: tuple) -> Change:
    written = f"windows: [{', '.join(map(str, windows))}]"
    return Change(written, run.model_copy(update={"windows": windows}))
