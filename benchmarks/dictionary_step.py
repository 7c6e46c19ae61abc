"""One training step of a dictionary against the dense encoder product that it cannot do without.

`ours` is selection, reconstruction, gradients, clipping and Adam; `floor` is the encoder product
alone, into memory that is there already, whole or in blocks of features, whichever is faster.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from timing import FLOOR, OURS, Case, compete, main

from deepseemoe.config.dictionary import DictionaryConfig
from deepseemoe.dictionary.batches import Batch
from deepseemoe.dictionary.layout import parts_of
from deepseemoe.dictionary.recipe import Recipe
from deepseemoe.dictionary.trainer import Trainer
from deepseemoe.dictionary.weights import tied_weights

N_BATCHES = 4
SETTLE_STEPS = 30
BLOCK = 1024


class Size(NamedTuple):
    """One benchmark: an SAE of `d_dict` features on `d_in` dimensions, and how many are dead."""

    name: str
    d_in: int
    d_dict: int
    k: int
    batch_tokens: int
    dead_share: float = 0.0


SIZES = (
    Size("tiny 128 x 1024", 128, 1024, 16, 1024),
    Size("512 x 8192", 512, 8192, 32, 2048),
    Size("512 x 8192, 10% dead", 512, 8192, 32, 2048, 0.1),
)


def cases(rounds: int) -> Sequence[Case]:
    """Time all sizes."""
    return [_case(size, rounds) for size in SIZES]


def _case(size: Size, rounds: int) -> Case:
    batches = structured_batches(size)
    trainer = _trainer(size)
    for step in range(SETTLE_STEPS):
        trainer.advance(batches[step % N_BATCHES])
    is_dead = torch.rand(size.d_dict, generator=torch.Generator().manual_seed(5)) < size.dead_share

    def step() -> None:
        trainer.silent_F[is_dead] = trainer.recipe.dead_tokens
        trainer.advance(batches[trainer.step % N_BATCHES])

    products = _encoder_products(size, batches[0].inputs_TC)
    seconds = compete({OURS: step, **products}, rounds=rounds, warmup=2)
    floor = min(products, key=lambda name: sorted(seconds[name])[rounds // 2])
    return Case(size.name, {OURS: seconds[OURS], FLOOR: seconds[floor]})


def _trainer(size: Size) -> Trainer:
    config = DictionaryConfig(
        d_dict=size.d_dict, k=size.k, batch_tokens=size.batch_tokens, n_tokens=10**8
    )
    (part,) = parts_of("crosscoder", n_layers=1, d_dict=size.d_dict)
    weights = tied_weights(part, d_model=size.d_in, init_norm=0.5, seed=0)
    recipe = Recipe.of(config, d_model=size.d_in)._replace(warmup_steps=0)
    return Trainer(recipe, (part,), weights, d_model=size.d_in)


def _encoder_products(size: Size, inputs_TC: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Return the bare product, whole and in blocks of features."""
    encoder_FC = torch.randn(size.d_dict, size.d_in)
    whole_TF = torch.empty(size.batch_tokens, size.d_dict)
    block_TB = torch.empty(size.batch_tokens, min(BLOCK, size.d_dict))

    def whole() -> None:
        torch.mm(inputs_TC, encoder_FC.t(), out=whole_TF)

    def blocked() -> None:
        for rows in encoder_FC.split(BLOCK):
            torch.mm(inputs_TC, rows.t(), out=block_TB)

    return {"whole": whole, "blocked": blocked}


def structured_batches(size: Size) -> list[Batch]:
    """Return batches of sums of a few directions with uneven frequencies, and noise, centred."""
    rng = torch.Generator().manual_seed(3)
    n_directions = 8 * size.d_in
    directions = torch.nn.functional.normalize(
        torch.randn(n_directions, size.d_in, generator=rng), dim=1
    )
    share = 1 / torch.arange(1, n_directions + 1).double() ** 0.9
    n_tokens = N_BATCHES * size.batch_tokens
    active = torch.multinomial(share, n_tokens * 24, replacement=True, generator=rng)
    strength = torch.exp(0.6 * torch.randn(n_tokens, 24, generator=rng))
    x = torch.nn.functional.embedding_bag(
        active.view(n_tokens, 24), directions, per_sample_weights=strength, mode="sum"
    )
    x += 0.15 * torch.randn(x.shape, generator=rng)
    x = (x - x.mean(0)) / x.std()
    return [Batch(part, part) for part in x.split(size.batch_tokens)]


if __name__ == "__main__":
    main(cases, __doc__, rounds=11)
