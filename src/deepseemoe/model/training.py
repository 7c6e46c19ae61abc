"""Training of NanoMoE on a corpus: token shards in, a transformers model folder out.

Killed at any point and started again, it goes on from its last checkpoint and ends in the same
bytes: batches depend on seed and step only, and a checkpoint holds all of the optimiser. (On one
machine: other hardware or another number of threads sums in another order.)
"""

import logging
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.func import functional_call

from deepseemoe.config import ArchitectureConfig, ModelConfig
from deepseemoe.model.kept import KEPT, Keeper
from deepseemoe.model.losses import balance_loss, next_token_loss, z_loss
from deepseemoe.model.nanomoe.configuration import NanoMoeConfig
from deepseemoe.model.nanomoe.modeling import NanoMoeForCausalLM
from deepseemoe.model.schedule import BETAS, MAX_GRAD_NORM, Schedule
from deepseemoe.model.text import PackedText
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.runtime.checkpoint_paths import checkpoint_path
from deepseemoe.runtime.checkpoints import read_checkpoint, write_checkpoint
from deepseemoe.runtime.files import growing, remove
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.seeds import seed_for
from deepseemoe.runtime.tables import Column, digest, write_table

logger = logging.getLogger(__name__)

COLUMNS = (
    Column("step", pa.int64(), "steps", "batches trained on"),
    Column("n_tokens", pa.int64(), "tokens", "tokens trained on"),
    Column("loss", pa.float64(), "nats/token", "next-token cross-entropy of the step's batch"),
    Column("balance_loss", pa.float64(), "1", "Switch balance loss, 1 where load is uniform"),
    Column("z_loss", pa.float64(), "1", "mean squared log-partition of the routers"),
    Column("grad_norm", pa.float64(), "1", "norm of the gradient before it was clipped"),
    Column("learning_rate", pa.float64(), "1", "of the step"),
)


def train_model(
    config: ModelConfig,
    *,
    vocab_size: int,
    shards: Sequence[Path],
    folder: Path,
    seed: int,
    device: str = "cpu",
    manifest: Mapping[str, Any] | None = None,
) -> None:
    """Train NanoMoE on token shards and write `folder`, whole or not at all.

    The folder gets `config.json`, `model.safetensors` (float32) and `training.parquet`, and in
    `kept` models of the steps that are to be kept. The last checkpoint to resume from stands
    beside it while training runs. Raises ValueError where shards do not fit
    together, a token is beyond the vocabulary, or training diverges.
    """
    text = PackedText(shards, seed=seed)
    _check_vocabulary(text, vocab_size)
    network = new_network(
        config.architecture, vocab_size=vocab_size, max_positions=text.sequence_length, seed=seed
    )
    settings = config.model_dump(mode="json", exclude={"training": {"checkpoint_steps"}})
    made_of = {"config": settings, "seed": seed, "vocab_size": vocab_size, "text": text.digest()}
    trainer = Trainer(config, network.to(device), text)
    keeper = Keeper(
        folder,
        config.training.keep_checkpoints,
        n_steps=trainer.schedule.n_steps,
        run=digest(made_of),
    )
    rows = _train(trainer, checkpoint_path(folder), digest(made_of), keeper)
    with growing(folder) as partial:
        save_network(network, partial)
        for step in keeper.steps:
            _load_weights(network, keeper.weights(step))
            save_network(network, partial / KEPT / f"{step:06d}")
        keeper.finish(partial)
        write_table(partial / "training.parquet", COLUMNS, rows, {**(manifest or {}), **made_of})
    remove(checkpoint_path(folder))
    keeper.clear()


def new_network(
    architecture: ArchitectureConfig,
    *,
    vocab_size: int,
    max_positions: int,
    seed: int,
    **options: Any,
) -> NanoMoeForCausalLM:
    """Return NanoMoE with random weights, the same on every device; dense layers match in FLOPs."""
    n_active = architecture.top_k + architecture.n_shared_experts
    network_config = NanoMoeConfig(
        vocab_size=vocab_size,
        hidden_size=architecture.d_model,
        num_hidden_layers=architecture.n_layers,
        num_attention_heads=architecture.n_heads,
        intermediate_size=n_active * architecture.d_expert,
        moe_intermediate_size=architecture.d_expert,
        num_experts=architecture.n_experts,
        num_experts_per_tok=architecture.top_k,
        n_shared_experts=architecture.n_shared_experts,
        first_k_dense_replace=architecture.n_dense_layers,
        norm_topk_prob=architecture.norm_topk_prob,
        routing=architecture.routing,
        max_position_embeddings=max_positions,
        **options,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "model", "initial weights"))
        return NanoMoeForCausalLM._from_config(network_config)


def save_network(network: NanoMoeForCausalLM, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` into a folder."""
    network.to("cpu").save_pretrained(folder)
    remove(folder / "generation_config.json")  # says nothing that config.json does not
    # safetensors lets only the owner read its files; the folder's readers should be able to
    shutil.copymode(folder / "config.json", folder / "model.safetensors")


class Trainer:
    """AdamW on the next-token loss and the routers' losses; step n trains on batch n.

    The model computes in `config.dtype`; weights and moments are float32 whatever that is.
    """

    def __init__(self, config: ModelConfig, network: NanoMoeForCausalLM, text: PackedText):
        self.config = config.training
        self.schedule = Schedule.of(self.config, sequence_length=text.sequence_length)
        self._network, self._text = network.train(), text
        self._parameters = dict(network.named_parameters())
        self._optimiser = _optimiser(self._parameters.values(), self.config.weight_decay)
        self._dtype = getattr(torch, config.dtype)

    def step(self, step: int) -> dict[str, float]:
        """Train on one batch and return the row of the training table."""
        batch = self._text.batch(step, n_sequences=self.config.batch_sequences)
        loss, balance, z = self._losses(batch.to(self._network.device))
        objective = loss + self.config.balance_loss * balance + self.config.z_loss * z
        objective.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), MAX_GRAD_NORM)
        for group in self._optimiser.param_groups:
            group["lr"] = self.schedule.learning_rate(step)
        self._optimiser.step()
        self._optimiser.zero_grad()
        row = {
            "step": step + 1,
            "n_tokens": (step + 1) * self.schedule.batch_tokens,
            "loss": loss.item(),
            "balance_loss": balance.item(),
            "z_loss": z.item(),
            "grad_norm": norm.item(),
            "learning_rate": self.schedule.learning_rate(step),
        }
        if not math.isfinite(row["loss"] + row["grad_norm"]):
            raise ValueError(f"training diverged at step {step + 1} ({row}); lower learning_rate")
        return row

    def _losses(self, batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
        base = self._network.model
        weights = {name: p.to(self._dtype) for name, p in base.named_parameters()}
        asked = {"position_ids": batch.positions, "output_router_logits": True}
        out = functional_call(base, weights, (batch.token_ids,), asked)
        head_VD = self._network.lm_head.weight
        loss = next_token_loss(out.last_hidden_state, head_VD, *batch)
        top_k = self._network.config.num_experts_per_tok
        return loss, balance_loss(out.router_logits, top_k), z_loss(out.router_logits)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights as they are now."""
        return {name: p.detach() for name, p in self._parameters.items()}

    def state(self) -> dict[str, Tensor]:
        """Return everything that training changes: weights and the optimiser's two moments."""
        state = {f"weight/{name}": weight for name, weight in self.weights().items()}
        for name, parameter in self._parameters.items():
            for moment in ("exp_avg", "exp_avg_sq"):
                state[f"{moment}/{name}"] = self._optimiser.state[parameter][moment]
        return state

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor], step: int) -> None:
        """Take back the state after `step` steps."""
        for name, parameter in self._parameters.items():
            parameter.copy_(state[f"weight/{name}"])
            self._optimiser.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                "exp_avg": torch.empty_like(parameter).copy_(state[f"exp_avg/{name}"]),
                "exp_avg_sq": torch.empty_like(parameter).copy_(state[f"exp_avg_sq/{name}"]),
            }


@torch.no_grad()
def _load_weights(network: NanoMoeForCausalLM, weights: Mapping[str, Tensor]) -> None:
    for name, parameter in network.named_parameters():
        parameter.copy_(weights[name])


def _train(trainer: Trainer, checkpoint: Path, run: str, keeper: Keeper) -> list[dict[str, float]]:
    """Train to the end, from the checkpoint if there is one; return the table's rows."""
    schedule = trainer.schedule
    rows: list[dict[str, float]] = []
    if kept := read_checkpoint(checkpoint, run=run):
        trainer.restore(kept.tensors, kept.step)
        rows = kept.log["rows"]
        logger.info("going on from step %d of %d", kept.step, schedule.n_steps)
    n_tokens = (schedule.n_steps - len(rows)) * schedule.batch_tokens
    progress = Progress("training NanoMoE", n_tokens)
    for step in range(len(rows), schedule.n_steps):
        rows.append(trainer.step(step))
        progress.advance(schedule.batch_tokens, loss=rows[-1]["loss"])
        keeper.keep(step + 1, trainer.weights())
        if (step + 1) % trainer.config.checkpoint_steps == 0:
            write_checkpoint(
                checkpoint, run=run, step=step + 1, tensors=trainer.state(), log={"rows": rows}
            )
    return rows


def _optimiser(parameters: Iterable[nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """Return fused AdamW that decays matrices and leaves the norms' gains alone."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=BETAS, fused=True)


def _check_vocabulary(text: PackedText, vocab_size: int) -> None:
    largest = int(text.token_ids_SN.max())
    if largest >= vocab_size:
        raise ValueError(
            f"the token shards hold token {largest}, but the tokenizer has {vocab_size} entries; "
            "run pack_corpus again"
        )
