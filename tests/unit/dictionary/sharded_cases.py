"""Short trainings on random batches, by one process or a rank of several; and ranks that die."""

import os

import torch
from dense_reference import random_weights

from deepseemoe.dictionary import trainer as trainer_module
from deepseemoe.dictionary.batches import Batch
from deepseemoe.dictionary.recipe import Recipe
from deepseemoe.dictionary.shards import shard_of
from deepseemoe.dictionary.together import train_together
from deepseemoe.dictionary.trainer import Trainer

N_STEPS, N_TOKENS, D_MODEL, D_DICT = 30, 64, 12, 70
PROCESSES = [
    (kind, activation, dtype)
    for kind, activation in (
        ("crosscoder", "batch_topk"), ("transcoder", "batch_topk"), ("transcoder", "topk"),
    )
    for dtype in ("float64", "float32")
]  # fmt: skip


def start(kind, activation, dtype):
    """Return parts and weights, of which a third are never active until AuxK moves them."""
    parts, weights = random_weights(kind, n_layers=2, d_model=D_MODEL, d_dict=D_DICT)
    weights.encoder_bias[::3] = -5.0
    if activation == "jumprelu":
        weights = weights._replace(thresholds=torch.full((D_DICT,), -0.5, dtype=torch.float64))
    return parts, weights.replaced(t.to(getattr(torch, dtype)) for t in weights.tensors())


def batches(kind, dtype):
    """Yield the batches of all steps."""
    rng, shape = torch.Generator().manual_seed(1), (N_TOKENS, 2 * D_MODEL)
    for _ in range(N_STEPS):
        x, y = (
            torch.randn(shape, generator=rng, dtype=torch.float64).to(getattr(torch, dtype))
            for _ in range(2)
        )
        yield Batch(x, x if kind == "crosscoder" else y)


def recipe(activation, **changes):
    """Return a recipe whose gradients are clipped at most steps."""
    settings = {
        "n_steps": N_STEPS, "batch_tokens": N_TOKENS, "k": 5, "peak_rate": 3e-3,
        "warmup_steps": 2, "decay_steps": 5, "max_grad_norm": 0.3, "auxk_weight": 1 / 32,
        "k_aux": 6, "dead_tokens": 200, "activation": activation, "sparsity_weight": 1.0,
    }  # fmt: skip
    return Recipe(**settings | changes)


def trained(kind, activation, dtype, weights, shard, ranks, **changes):
    """Return the trainer after all steps, the reports, and the entries chosen in each step."""
    settings = recipe(activation, **changes)
    trainer = Trainer(settings, shard.parts, weights, d_model=D_MODEL, ranks=ranks)
    chosen, select = [], trainer._activation.select

    def noting(*args):
        selection = select(*args)
        entries = selection.entries
        places = entries.tokens * D_DICT + ranks.places(entries.features)
        chosen.append(places[entries.values > 0])
        return selection

    trainer._activation.select = noting
    return trainer, [trainer.advance(batch) for batch in batches(kind, dtype)], chosen


def alone(kind, activation, dtype, **changes):
    """Return what `trained` does, by one process."""
    parts, weights = start(kind, activation, dtype)
    shard = shard_of(parts, 0, 1)
    return trained(kind, activation, dtype, weights, shard, shard.ranks("cpu"), **changes)


def train_all(rank, n_ranks, meeting, results):
    """Train all cases of PROCESSES as a gloo rank; write whole weights, numbers and entries."""
    from deepseemoe.dictionary.spread import gather, scatter

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=n_ranks
    )
    for case in PROCESSES:
        parts, weights = start(*case)
        shard = shard_of(parts, rank, n_ranks)
        mine = scatter(weights, shard, "cpu")
        trainer, reports, chosen = trained(*case, mine, shard, shard.ranks("cpu"))
        whole = [tensor.clone() for tensor in gather(trainer.weights, shard)]
        numbers = torch.tensor(reports, dtype=torch.float64)
        torch.save((whole, numbers, chosen), results / f"{'-'.join(case)}-{rank}.pt")
    torch.distributed.destroy_process_group()


def die_in_training(rank, n_ranks, meeting, tasks, options, deadly_step):
    """Train as a gloo rank, the last of which is killed before a step."""
    torch.set_num_threads(1)
    advance = trainer_module.Trainer.advance

    def dying(self, batch):
        if self.step == deadly_step and rank == n_ranks - 1:
            os._exit(9)
        return advance(self, batch)

    trainer_module.Trainer.advance = dying
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=n_ranks
    )
    train_together(tasks, rank=rank, n_ranks=n_ranks, **options)
