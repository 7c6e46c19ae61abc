"""What dictionaries are worth after equal steps on the same batches, ours and the peers'.

    python benchmarks/dictionary_quality.py [--stores results/tiny] [--only planted] [--steps 2000]

Windows of one layer: ours, and the peers of `peers.py` (`make peers`), each with its own recipe
(initialisation, learning rate, schedule, AuxK, threshold), but with the same k and d_dict, and on
our normalised batches. Windows of three layers: ours, and the same recipe as plain dense autograd.

Rows that end in "own" use the threshold that the peer saves; others the one that gives k features a
token on `select`, found as ours is, so that nothing is compared at unequal L0. Metrics are those of
`deepseemoe.dictionary.metrics`, on test rows; of planted directions, the mean of the highest cosine
that any feature has with each (over all layers at once), and the share with cosine above .9.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import torch
from contestant import Learnt, Peer, Setting, available
from peers import BATCH_TOPK, Sparsify, SparsifyAdam
from quality_worlds import World, planted, stored
from timing import machine
from torch import Tensor

from deepseemoe.config.dictionary import DictionaryConfig
from deepseemoe.dictionary.auxk import AuxK
from deepseemoe.dictionary.batches import Batch
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import PerFeature, TopK, Weighted
from deepseemoe.dictionary.layout import parts_of
from deepseemoe.dictionary.metrics import Reconstruction, Sparsity
from deepseemoe.dictionary.recipe import Recipe
from deepseemoe.dictionary.threshold import calibrate
from deepseemoe.dictionary.trainer import Trainer
from deepseemoe.dictionary.weights import Weights, tied_weights
from deepseemoe.names import Window

OURS = "ours"
PEERS = (*BATCH_TOPK, Sparsify, SparsifyAdam)
METRICS = ("fvu", "l0", "dead", "cosine", "recall", "loss_recovered")


class Ours:
    """Our trainer with its defaults, or other settings of the configuration."""

    def __init__(self, world: World, n_steps: int, seed: int, **settings: object) -> None:
        self.world = world
        config = DictionaryConfig(
            d_dict=world.d_dict,
            k=world.k,
            batch_tokens=world.batch_tokens,
            n_tokens=n_steps * world.batch_tokens,
            **settings,
        )
        d_model = world.normalisation.mean_LD.shape[1]
        parts = parts_of("crosscoder", n_layers=len(world.window.layers), d_dict=world.d_dict)
        weights = tied_weights(parts[0], d_model=d_model, init_norm=config.init_norm, seed=seed)
        self.trainer = Trainer(Recipe.of(config, d_model=d_model), parts, weights, d_model=d_model)

    def step(self, inputs_TC: Tensor) -> None:
        """Train on a batch."""
        self.trainer.advance(Batch(inputs_TC, inputs_TC))

    def dictionaries(self) -> dict[str, Dictionary]:
        """Return what was trained, under the ends of its names."""
        return {"": calibrated(dictionary_of(self.world, self.trainer.weights), self.world)}


class Dense(Ours):
    """The same recipe as plain dense autograd with torch's own Adam."""

    NAME = "dense autograd"

    def __init__(self, world: World, n_steps: int, seed: int) -> None:
        super().__init__(world, n_steps, seed)
        self.tensors = list(self.trainer.weights.tensors())
        for tensor in self.tensors:
            tensor.requires_grad_(True)
        self.adam = torch.optim.Adam(self.tensors)

    def step(self, inputs_TC: Tensor) -> None:
        """Train on a batch."""
        trainer, recipe = self.trainer, self.trainer.recipe
        loss, is_active_TF = self._loss(inputs_TC)
        self.adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.tensors, recipe.max_grad_norm)
        self.adam.param_groups[0]["lr"] = recipe.learning_rate(trainer.step)
        self.adam.step()
        trainer.step += 1
        trainer.silent_F += len(inputs_TC)
        trainer.silent_F[is_active_TF.any(0)] = 0

    def _loss(self, inputs_TC: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss with AuxK, and which activations are selected."""
        weights, recipe = self.trainer.weights, self.trainer.recipe
        (encoder_FC,), (decoder_FC,) = weights.encoders, weights.decoders
        z_TF = inputs_TC @ encoder_FC.t() + weights.encoder_bias
        scores_TF = (z_TF.relu() * weights.norm_F(self.trainer.d_model)).detach()
        edge = scores_TF.flatten().topk(recipe.k * len(inputs_TC)).values[-1]
        is_active_TF = (scores_TF >= edge) & (scores_TF > 0)
        output_TC = (z_TF * is_active_TF) @ decoder_FC + weights.decoder_bias
        loss = (inputs_TC - output_TC).square().mean()
        is_dead_F = self.trainer.is_dead_F
        n_dead = int(is_dead_F.sum())
        if n_dead:
            part = AuxK(is_dead_F, recipe.k_aux, recipe.auxk_weight, self.trainer.step)
            used = part.tokens(len(inputs_TC))
            residual_TC = (inputs_TC - output_TC)[used].detach()
            dead_TF = z_TF[used].masked_fill(~is_dead_F, -torch.inf)
            best = dead_TF.topk(min(recipe.k_aux, n_dead), dim=1)
            chosen_TF = torch.zeros_like(dead_TF).scatter(1, best.indices, best.values)
            miss = (residual_TC - chosen_TF @ decoder_FC).square().sum()
            spread = (residual_TC - residual_TC.mean(0)).square().sum()
            loss = loss + recipe.auxk_weight * min(n_dead / recipe.k_aux, 1.0) * miss / spread
        return loss, is_active_TF

    def dictionaries(self) -> dict[str, Dictionary]:
        """Return what was trained, under the ends of its names."""
        for tensor in self.tensors:
            tensor.requires_grad_(False)
        return super().dictionaries()


class Rival:
    """A peer."""

    def __init__(self, peer: type[Peer], world: World, n_steps: int, seed: int) -> None:
        self.world = world
        d_in = world.normalisation.mean_LD.numel()
        sizes = Setting(d_in, world.d_dict, world.k, world.batch_tokens, n_steps, seed)
        self.peer = peer(sizes)

    def step(self, inputs_TC: Tensor) -> None:
        """Train on a batch."""
        self.peer.step(inputs_TC)

    def dictionaries(self) -> dict[str, Dictionary]:
        """Return what was trained, under the ends of its names."""
        learnt = self.peer.learnt()
        dictionary = dictionary_of(self.world, weights_of(learnt))
        if learnt.threshold_F is None:
            return {"": replace(dictionary, gate=TopK(self.world.k))}
        own = replace(dictionary, gate=PerFeature(learnt.threshold_F))
        return {"": calibrated(dictionary, self.world), ", own": own}


def weights_of(learnt: Learnt) -> Weights:
    """Return a peer's SAE as our weights."""
    return Weights(
        (learnt.encoder_FC,), learnt.encoder_bias_F, (learnt.decoder_FC,), learnt.decoder_bias_C
    )


def dictionary_of(world: World, weights: Weights) -> Dictionary:
    """Return weights in normalised units as a dictionary whose gate is still open."""
    return Dictionary(
        kind="crosscoder",
        window=world.window,
        k=world.k,
        reads="resid_post",
        writes="resid_post",
        weights=weights,
        reading=world.normalisation,
        writing=world.normalisation,
    )


def calibrated(dictionary: Dictionary, world: World) -> Dictionary:
    """Return the dictionary with the threshold that gives k features a token on `select`."""
    found = calibrate(dictionary, world.select, guess=0.0)
    return replace(dictionary, gate=Weighted(found.threshold), l0=found.l0)


def measured(dictionary: Dictionary, world: World) -> dict[str, float]:
    """Return the metrics of a dictionary in a world."""
    fit, sparsity = Reconstruction(world.normalisation.mean_LD), Sparsity(world.d_dict)
    for x_TLD in world.test():
        entries = dictionary.entries(x_TLD)
        fit.add(x_TLD, dictionary.reconstruct(entries, n_tokens=len(x_TLD)))
        sparsity.add(entries.features, len(x_TLD))
    found = {
        "fvu": float(fit.fvu_L.mean()),
        "l0": sparsity.l0,
        "dead": sparsity.dead_fraction,
    }
    if world.truth_FLD is not None:
        cosine_F = matched_cosines(dictionary.decoder_FLD, world)
        found |= {
            "cosine": float(cosine_F.mean()),
            "recall": float((cosine_F > 0.9).double().mean()),
        }
    if world.loss_recovered:
        found["loss_recovered"] = world.loss_recovered(dictionary)
    return found


def matched_cosines(decoder_FLD: Tensor, world: World) -> Tensor:
    """Return the highest cosine of any feature with each planted direction, normalised units."""
    scale_L1 = world.normalisation.scale_L[:, None]
    found, true = (
        torch.nn.functional.normalize((directions * scale_L1).flatten(1), dim=1)
        for directions in (decoder_FLD, world.truth_FLD)
    )
    return (true @ found.t()).max(1).values


class Result(NamedTuple):
    """The metrics of one contestant in one world and seed."""

    world: str
    contestant: str
    seed: int
    metrics: Mapping[str, float]


def compared(world: World, n_steps: int, seed: int) -> list[Result]:
    """Train all contestants on the same batches, step by step, and measure them."""
    contestants: dict[str, Ours | Rival | Dense] = {OURS: Ours(world, n_steps, seed)}
    if len(world.window.layers) == 1:
        for peer in available(PEERS):
            contestants[peer.NAME] = Rival(peer, world, n_steps, seed)
    else:
        contestants[Dense.NAME] = Dense(world, n_steps, seed)
    for step in range(n_steps):
        inputs_TC = world.batch(step)
        for contestant in contestants.values():
            contestant.step(inputs_TC)
    return [
        Result(world.name, name + end, seed, measured(dictionary, world))
        for name, contestant in contestants.items()
        for end, dictionary in contestant.dictionaries().items()
    ]


def table(results: Sequence[Result]) -> str:
    """Return mean ± standard deviation over seeds, and the paired difference of FVU from ours."""
    lines = [
        "| world | contestant | fvu | fvu - ours | l0 | dead | cosine | recall | loss recovered |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for world, contestant in dict.fromkeys((r.world, r.contestant) for r in results):
        mine = of(results, world, contestant)
        cells = {name: spread([m[name] for m in mine if name in m]) for name in METRICS}
        ours = of(results, world, OURS)
        pairs = [m["fvu"] - o["fvu"] for m, o in zip(mine, ours, strict=True)]
        shown = (cells["fvu"], "" if contestant == OURS else spread(pairs, sign="+"))
        row = (world, contestant, *shown, *(cells[name] for name in METRICS[1:]))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def of(results: Sequence[Result], world: str, contestant: str) -> list[Mapping[str, float]]:
    """Return the metrics of a contestant in a world, seed by seed."""
    return [r.metrics for r in results if (r.world, r.contestant) == (world, contestant)]


def spread(values: Sequence[float], sign: str = "") -> str:
    """Return mean ± standard deviation as text."""
    if not values:
        return ""
    around = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
    return f"{mean(values):{sign}.4f}{around}"


def main() -> None:
    """Compare in all worlds that were asked for, print a table, and write `--json`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all metrics as a list")
    parser.add_argument("--only", default="", help="worlds with this in their name")
    parser.add_argument("--steps", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--seeds", default="0,1,2", help="default: %(default)s")
    parser.add_argument("--stores", type=Path, metavar="RUN", help="results folder of a run")
    given = parser.parse_args()
    makers = {f"planted, {n} layer": partial(planted, n_layers=n) for n in (1, 3)}
    if given.stores:
        makers |= {
            f"stores, {n} layer": partial(stored, given.stores, window=Window(0, n - 1))
            for n in (1, 3)
        }
    results = []
    for name in (name for name in makers if given.only in name):
        for seed in map(int, given.seeds.split(",")):
            results += compared(makers[name](seed=seed), given.steps, seed)
    print(table(results))
    print(machine())
    if given.json:
        text = json.dumps([result._asdict() for result in results], indent=2)
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
