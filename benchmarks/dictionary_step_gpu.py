"""One training step of a dictionary on a GPU, with our Triton kernels and without.

A crosscoder at the width of gpt-oss-20b: 3 layers of 2,880, 65,536 features, k 64, 8,192 tokens a
batch, weights and moments in float32 (17 GiB with all else). `ours` is a whole step: selection,
reconstruction, gradients, AuxK with no feature dead, clipping, Adam. `floor` is the encoder product
alone in bfloat16, whole or in blocks, whichever is faster; the product in float32 stands beside it.
All of them take turns in one process, so that they share the card and its clock. Then each mode's
steps are timed once more, phase by phase, waiting for the GPU between phases.

`--kernels on` or `--kernels off` measures one mode only. Without a GPU it says so and does nothing.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from timing import FLOOR, OURS, Case, compete, main

from deepseemoe.config.dictionary import DictionaryConfig
from deepseemoe.dictionary import trainer as trainer_module
from deepseemoe.dictionary.batches import Batch
from deepseemoe.dictionary.kernels import VARIABLE
from deepseemoe.dictionary.layout import parts_of
from deepseemoe.dictionary.recipe import Recipe
from deepseemoe.dictionary.scan import GPU_BLOCK
from deepseemoe.dictionary.trainer import Trainer
from deepseemoe.dictionary.weights import tied_weights

N_BATCHES, SETTLE_STEPS, PHASE_STEPS = 4, 20, 10
VARIABLE_OF = {"on": "1", "off": "0"}
FLOAT32 = "product in float32"


class Size(NamedTuple):
    """A crosscoder and its batches."""

    name: str
    n_layers: int
    d_model: int
    d_dict: int
    k: int
    batch_tokens: int


GPT_OSS = Size("3 x 2880 x 65536", 3, 2880, 65_536, 64, 8192)


def cases(rounds: int, *, kernels: str) -> list[Case]:
    """Time the modes that were asked for; nothing where there is no GPU."""
    if not torch.cuda.is_available():
        print("no GPU: this benchmark measures nothing here")
        return []
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    return measured(GPT_OSS, kernels.split(), rounds, "cuda")


def measured(size: Size, modes: Sequence[str], rounds: int, device: str) -> list[Case]:
    """Time steps in each mode, on one trainer, and the bare products."""
    unknown = set(modes) - set(VARIABLE_OF)
    if unknown or not modes:
        raise ValueError(f"--kernels {' '.join(modes)!r}: must be 'on', 'off' or 'on off'")
    batches = random_batches(size, device)
    trainer = settled(size, batches, device)
    products = encoder_products(trainer.weights.encoders[0], batches[0].inputs_TC)
    steps = {f"kernels {mode}": partial(step, trainer, batches, mode) for mode in modes}
    waiting = {name: partial(finished, call) for name, call in (steps | products).items()}
    seconds = compete(waiting, rounds=rounds, warmup=2)
    for mode in modes:
        print_phases(trainer, batches, mode)
    floor = min(set(products) - {FLOAT32}, key=lambda name: median(seconds[name]))
    beside = {FLOOR: seconds[floor], FLOAT32: seconds[FLOAT32]}
    return [Case(f"{size.name}, {name}", {OURS: seconds[name]} | beside) for name in steps]


def settled(size: Size, batches: Sequence[Batch], device: str) -> Trainer:
    """Return a trainer after enough steps for its guess of the threshold to settle."""
    config = DictionaryConfig(
        d_dict=size.d_dict, k=size.k, batch_tokens=size.batch_tokens, n_tokens=10**9
    )
    (part,) = parts_of("crosscoder", n_layers=size.n_layers, d_dict=size.d_dict)
    weights = tied_weights(part, d_model=size.d_model, init_norm=config.init_norm, seed=0)
    recipe = Recipe.of(config, d_model=size.d_model)._replace(warmup_steps=0)
    trainer = Trainer(recipe, (part,), weights.to(device), d_model=size.d_model)
    for _ in range(SETTLE_STEPS):
        step(trainer, batches, "off")
    return trainer


def step(trainer: Trainer, batches: Sequence[Batch], mode: str) -> None:
    """Take one step in a mode, and see that it was the work that it should be."""
    os.environ[VARIABLE] = VARIABLE_OF[mode]
    batch = batches[trainer.step % N_BATCHES]
    report = trainer.advance(batch)
    if report.n_active != trainer.recipe.k * report.n_tokens:
        raise RuntimeError(f"{report.n_active} active entries of {report.n_tokens} tokens")


def encoder_products(
    encoder_FC: torch.Tensor, inputs_TC: torch.Tensor
) -> dict[str, Callable[[], object]]:
    """Return the bare product in bfloat16, whole and in blocks of features, and in float32."""
    rounded_FC, x_TC = encoder_FC.bfloat16(), inputs_TC.bfloat16()

    def blocked() -> None:
        for rows in rounded_FC.split(GPU_BLOCK):
            torch.mm(x_TC, rows.t(), out=block_TB[:, : len(rows)])

    block_TB = x_TC.new_empty(len(x_TC), min(GPU_BLOCK, len(encoder_FC)))
    return {
        "whole": partial(torch.mm, x_TC, rounded_FC.t()),
        "blocked": blocked,
        FLOAT32: partial(torch.mm, inputs_TC, encoder_FC.t()),
    }


def print_phases(trainer: Trainer, batches: Sequence[Batch], mode: str) -> None:
    """Print the median milliseconds of the phases of a step."""
    seconds: dict[str, list[float]] = {"selection": [], "gradients": [], "Adam": []}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **options: Any) -> Any:
            finished(lambda: None)
            start = time.perf_counter()
            result = finished(partial(call, *args, **options))
            seconds[name].append(time.perf_counter() - start)
            return result

        return watched

    select, gradient_of = trainer._activation.select, trainer_module.gradient_of
    trainer._activation.select = timed("selection", select)
    trainer_module.gradient_of = timed("gradients", gradient_of)
    trainer._descend = timed("Adam", trainer._descend)
    for _ in range(PHASE_STEPS):
        step(trainer, batches, mode)
    trainer._activation.select, trainer_module.gradient_of = select, gradient_of
    del trainer._descend
    print(f"kernels {mode}: " + ", ".join(_phase(*item) for item in seconds.items()))


def _phase(name: str, seconds: Sequence[float]) -> str:
    return f"{name} {1e3 * median(seconds):.1f} ms"


def finished(call: Callable[[], Any]) -> Any:
    """Call, and wait until the GPU has done it."""
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result


def random_batches(size: Size, device: str) -> list[Batch]:
    """Return sums of a few directions with uneven frequencies, and noise; made on the device."""
    rng = torch.Generator(device).manual_seed(3)
    options: Mapping[str, Any] = {"generator": rng, "device": device}
    n_directions, d_in = 4 * size.d_model, size.n_layers * size.d_model
    directions = torch.randn(n_directions, d_in, **options) / d_in**0.5
    share = 1 / torch.arange(1, n_directions + 1, device=device) ** 0.9
    batches = []
    for _ in range(N_BATCHES):
        n_active = (size.batch_tokens, 24)
        active = torch.multinomial(share.expand(size.batch_tokens, -1), 24, generator=rng)
        strength = torch.exp(0.6 * torch.randn(n_active, **options))
        x = torch.nn.functional.embedding_bag(
            active, directions, per_sample_weights=strength, mode="sum"
        )
        x += 0.15 / d_in**0.5 * torch.randn(x.shape, **options)
        x = (x - x.mean(0)) / x.std()
        batches.append(Batch(x, x))
    return batches


if __name__ == "__main__":
    main(cases, __doc__, rounds=7, kernels="on off")
