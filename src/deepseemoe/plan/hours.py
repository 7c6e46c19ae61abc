"""How long the heavy rules take, by measured speeds where there are any, else by assumed ones."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from deepseemoe.config import RunConfig
from deepseemoe.names import SPLITS
from deepseemoe.plan.dictionaries import Shape, kinds_of, trained_of
from deepseemoe.plan.figures import Figure, shown_hours
from deepseemoe.plan.measured import Measured, capture_speed, logged
from deepseemoe.plan.memory import model_bytes
from deepseemoe.plan.network import Network
from deepseemoe.plan.speed import (
    CORE,
    DISK_GB_PER_SECOND,
    GPU,
    Hardware,
    encoding_speed,
    forward_flops,
    forward_speed,
    training_speed,
)
from deepseemoe.plan.stores import arrays_of, loaded, row_bytes

SPLICED_TOKENS = 32_768
"""Test tokens that `evaluate_dictionary` runs the model on, three times."""

PACKED_PER_SECOND = 110_000
"""Tokens a second of `pack_corpus` on 2 cores; measured, docs/performance.md."""

LOAD_GB_PER_SECOND = 1.0
"""A model's weights from disk to device."""


class Speed(NamedTuple):
    """Tokens a second, and where that is from."""

    tokens_per_second: float
    how: str


def hours_of(
    run: RunConfig, network: Network, shapes: Sequence[Shape], given: float | None = None
) -> tuple[Figure, ...]:
    """Return the speed of the model, the hours of each rule, and their sum.

    `given` is the speed of the layers that capture runs, where it is known.
    """
    speed = model_speed(run, network, given)
    rules = tuple(_rules(run, network, shapes, speed))
    how = "one after the other; tables, maps and labels come on top"
    return (
        Figure("model, first layers", speed.tokens_per_second, "tokens/s", speed.how, True),
        *rules,
        Figure("these together", sum(figure.value for figure in rules), "hours", how, True),
    )


def _rules(
    run: RunConfig, network: Network, shapes: Sequence[Shape], speed: Speed
) -> Iterator[Figure]:
    n_all = sum(getattr(run.corpus.n_tokens, split) for split in SPLITS)
    yield _hours("pack_corpus", n_all, Speed(PACKED_PER_SECOND, "2 cores, measured"))
    yield _capture(run, network, speed)
    trained = trained_of(shapes)
    if run.batches.source == "live" and trained:
        yield _live(run, trained, speed)
    else:
        yield from (_training(run, *kind) for kind in kinds_of(trained).items())
    yield _evaluation(run, network, shapes)


def hardware(run: RunConfig, stage: str) -> Hardware:
    """Return what a stage is taken to compute on."""
    return GPU if run.devices.on_gpu(stage) else CORE


def model_speed(run: RunConfig, network: Network, given: float | None) -> Speed:
    """Return the speed of the layers that capture runs: given, measured or assumed."""
    if given:
        return Speed(given, "given")
    if found := capture_speed(run):
        return _from(found)
    device, length = hardware(run, "activations"), run.corpus.sequence_length
    part = loaded(run, network)
    gflops = forward_flops(part, length) / 1e9
    how = (
        f"assumed: {gflops:,.3g} GFLOP a token at {device.utilisation:.0%} of "
        f"{device.model_tflops:g} TFLOP/s ({device.name})"
    )
    return Speed(forward_speed(part, length, device), how)


def _from(found: Measured) -> Speed:
    return Speed(found.tokens_per_second, f"measured: {found.source}")


def _hours(name: str, n_tokens: float, speed: Speed) -> Figure:
    rate = speed.tokens_per_second
    how = f"{n_tokens:,.0f} tokens at {rate:,.0f}/s; {speed.how}"
    return Figure(name, n_tokens / rate / 3600, "hours", how, True)


def _capture(run: RunConfig, network: Network, model: Speed) -> Figure:
    """Return the hours of capture, which also waits for the disk."""
    splits = SPLITS if run.batches.source == "cache" else SPLITS[1:]
    n_tokens = sum(getattr(run.corpus.n_tokens, split) for split in splits)
    disk = DISK_GB_PER_SECOND * 1e9 / row_bytes(arrays_of(run, network))
    name = f"cache_activations ({', '.join(splits)})"
    if disk < model.tokens_per_second and not model.how.startswith(("given", "measured")):
        return _hours(name, n_tokens, Speed(disk, f"the disk, at {DISK_GB_PER_SECOND:g} GB/s"))
    return _hours(name, n_tokens, Speed(model.tokens_per_second, "the model"))


def _training(run: RunConfig, label: str, alike: Sequence[Shape]) -> Figure:
    """Return the hours of training a dictionary on its windows, from stores."""
    shape, device = alike[0], hardware(run, "dictionary")
    found = logged(run, f"train_dictionary/{shape.name}-*.log")  # one alone; jobs of several mix
    n_devices = max(1, run.devices.n_gpus("dictionary"))
    how = f"assumed: float32 on {f'{n_devices} × ' * (n_devices > 1)}{device.name}"
    assumed = Speed(n_devices * training_speed(shape, device), how)
    n_tokens = len(alike) * shape.config.n_tokens
    return _hours(f"train {label}", n_tokens, _from(found) if found else assumed)


def _live(run: RunConfig, shapes: Sequence[Shape], model: Speed) -> Figure:
    """Return the hours of live training: of the model or of all dictionaries, the slower."""
    device = hardware(run, "dictionary")
    n_tokens = max(shape.config.n_tokens for shape in shapes)
    if found := logged(run, "train_live.log"):
        return _hours("train_live", n_tokens, _from(found))
    training = sum(s.config.n_tokens / training_speed(s, device) for s in shapes) / 3600
    reading = n_tokens / model.tokens_per_second / 3600
    n_gpus = run.devices.n_gpus("activations", "dictionary")
    apart = run.devices.on_gpu("dictionary") and n_gpus > run.devices.n_gpus("activations") > 0
    total, order = (max(training, reading), "beside") if apart else (training + reading, "after")
    how = (
        f"{n_tokens:,} tokens: dictionaries {shown_hours(training)} (assumed: float32 on "
        f"{device.name}), model {shown_hours(reading)}, {order} each other"
    )
    return Figure("train_live", total, "hours", how, True)


def _evaluation(run: RunConfig, network: Network, shapes: Sequence[Shape]) -> Figure:
    device, length = hardware(run, "evaluation"), run.corpus.sequence_length
    n_spliced = min(SPLICED_TOKENS, run.corpus.n_tokens.test)
    load = model_bytes(run.model, network)[0] / (LOAD_GB_PER_SECOND * 1e9)
    splice = 3 * n_spliced / forward_speed(network, length, device)
    encode = sum(run.corpus.n_tokens.test / encoding_speed(s, device) for s in shapes)
    total = len(shapes) * (load + splice) + 2 * encode
    how = (
        f"{len(shapes)} × (loading {load:,.0f} s, 3 × {n_spliced:,} tokens {splice:,.0f} s), "
        f"test split encoded and decoded {2 * encode:,.0f} s"
    )
    return Figure("evaluate_dictionary", total / 3600, "hours", how, True)
