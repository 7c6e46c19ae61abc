"""One training step of a dictionary against the dense encoder product that it cannot do without.

`ours` is selection, reconstruction, gradients, AuxK, clipping and Adam; `floor` is the encoder
product alone, into memory that is there already, whole or in blocks of features, whichever is
faster. Peers are the trainers of `peers.py` (`make peers`, then `.venv-peers/bin/python
benchmarks/dictionary_step.py`); where one is not installed it is left out, with the reason.

- 512 x 8192 and others without a remark: BatchTopK; sparsify selects k of each token instead.
- crosscoder: ours has a window of 3 layers of 512; no peer has crosscoders, theirs is an SAE on
  1,536 dimensions, which is as many operations.
- 10% dead: the same features, all zeros in the encoder, count as dead at each step of every
  contestant, whose AuxK is on (sparsify's default is off). Ours takes AuxK over a quarter of the
  tokens of such a batch, by its own recipe; the peers take all.
- per-token TopK: ours with that rule too, sparsify and sae-lens' sparse form.

Sparsify trains with signum, its default; sae-lens and dictionary-learning with Adam.

`--only WORD` takes the cases with WORD in their name.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from contestant import Peer, Setting, available
from peers import BATCH_TOPK, TOPK, Sparsify
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
    """One benchmark: features on a window of layers, which of them are dead, and who competes."""

    name: str
    d_model: int
    d_dict: int
    k: int
    batch_tokens: int
    n_layers: int = 1
    dead_share: float = 0.0
    settings: Mapping[str, object] = {}
    peers: tuple[type[Peer], ...] = (*BATCH_TOPK, Sparsify)

    @property
    def d_in(self) -> int:
        """Columns of the window."""
        return self.n_layers * self.d_model

    @property
    def is_dead_F(self) -> torch.Tensor:
        """Which features are dead."""
        rng = torch.Generator().manual_seed(5)
        return torch.rand(self.d_dict, generator=rng) < self.dead_share


SIZES = (
    Size("tiny 128 x 1024", 128, 1024, 16, 1024),
    Size("512 x 8192", 512, 8192, 32, 2048),
    Size("768 x 16384", 768, 16384, 32, 2048),
    Size("crosscoder 3 x 512 x 8192", 512, 8192, 32, 2048, n_layers=3),
    Size("512 x 8192, 10% dead", 512, 8192, 32, 2048, dead_share=0.1),
    Size(
        "512 x 8192, per-token TopK",
        512,
        8192,
        32,
        2048,
        settings={"activation": "topk"},
        peers=TOPK,
    ),
)


def cases(rounds: int, *, only: str) -> Sequence[Case]:
    """Time the sizes that were asked for."""
    return [_case(size, rounds) for size in SIZES if only in size.name]


def _case(size: Size, rounds: int) -> Case:
    batches = structured_batches(size)
    ours = Ours(size, batches)
    rivals = {peer.NAME: Rival(peer, size, batches) for peer in available(size.peers)}
    products = _encoder_products(size, batches[0])
    seconds = compete(
        {OURS: ours.step} | {name: rival.step for name, rival in rivals.items()} | products,
        rounds=rounds,
        before=lambda name: {OURS: ours, **rivals}[name].kill() if name not in products else None,
    )
    for contestant in (ours, *rivals.values()):
        contestant.check()
    floor = min(products, key=lambda name: sorted(seconds[name])[rounds // 2])
    times = {OURS: seconds[OURS], FLOOR: seconds[floor]}
    return Case(size.name, times | {name: seconds[name] for name in rivals})


class Ours:
    """Our trainer, after enough steps for its guess of the threshold to settle."""

    def __init__(self, size: Size, batches: Sequence[torch.Tensor]) -> None:
        self.size, self.is_dead_F = size, size.is_dead_F
        self.batches = [Batch(inputs_TC, inputs_TC) for inputs_TC in batches]
        config = DictionaryConfig(
            d_dict=size.d_dict,
            k=size.k,
            batch_tokens=size.batch_tokens,
            n_tokens=10**8,
            **size.settings,
        )
        (part,) = parts_of("crosscoder", n_layers=size.n_layers, d_dict=size.d_dict)
        weights = tied_weights(part, d_model=size.d_model, init_norm=config.init_norm, seed=0)
        recipe = Recipe.of(config, d_model=size.d_model)._replace(warmup_steps=0)
        self.trainer = Trainer(recipe, (part,), weights, d_model=size.d_model)
        for _ in range(SETTLE_STEPS):
            self.kill()
            self.step()

    def kill(self) -> None:
        """Make the dead features of this size dead."""
        trainer = self.trainer
        trainer.silent_F[self.is_dead_F] = trainer.recipe.dead_tokens
        trainer.weights.encoders[0][self.is_dead_F] = 0.0
        trainer.weights.encoder_bias[self.is_dead_F] = 0.0

    def step(self) -> None:
        """Train on the next batch."""
        batch = self.batches[self.trainer.step % N_BATCHES]
        self.report = self.trainer.advance(batch)

    def check(self) -> None:
        """Raise where the last step was not the work that it should be."""
        self.kill()
        n_dead = int(self.trainer.is_dead_F.sum())
        _check(OURS, self.size, self.report.loss, self.report.n_active, n_dead)


class Rival:
    """A peer on the same batches."""

    def __init__(self, peer: type[Peer], size: Size, batches: Sequence[torch.Tensor]) -> None:
        self.size, self.batches, self.is_dead_F = size, batches, size.is_dead_F
        self.n_steps = 0
        self.peer = peer(
            Setting(
                size.d_in,
                size.d_dict,
                size.k,
                size.batch_tokens,
                n_steps=10**8 // size.batch_tokens,
                auxk=size.dead_share > 0,
            )
        )

    def kill(self) -> None:
        """Make the dead features of this size dead."""
        if self.size.dead_share:
            self.peer.kill(self.is_dead_F)

    def step(self) -> None:
        """Train on the next batch."""
        self.loss = self.peer.step(self.batches[self.n_steps % N_BATCHES])
        self.n_steps += 1

    def check(self) -> None:
        """Raise where the last step was not the work that it should be."""
        self.kill()
        n_active = self.peer.n_active(self.batches[0])
        _check(self.peer.NAME, self.size, self.loss, n_active, self.peer.n_dead())


def _check(name: str, size: Size, loss: float, n_active: int, n_dead: int) -> None:
    found = (math.isfinite(loss), n_active, n_dead)
    expected = (True, size.k * size.batch_tokens, int(size.is_dead_F.sum()))
    if found != expected:
        raise RuntimeError(
            f"{size.name}, {name}: (loss is finite, active entries, dead features) is {found}, "
            f"expected {expected}; its time means nothing"
        )


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


def structured_batches(size: Size) -> list[torch.Tensor]:
    """Return batches of sums of a few directions with uneven frequencies, and noise, centred."""
    rng = torch.Generator().manual_seed(3)
    n_directions = 8 * size.d_model
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
    return list(x.split(size.batch_tokens))


if __name__ == "__main__":
    main(cases, __doc__, rounds=7, only="")
