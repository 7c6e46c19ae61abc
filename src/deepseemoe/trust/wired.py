"""A tiny model whose routers are wired to concepts before it is trained around them.

Half of the training is free. Then, in one layer, each of the first experts gets a concept of the
planted language (a domain of documents, or the words after one trigger), and the router's row is
set to a linear probe for it: what tells the concept in what the router reads, found on the select
split. The other rows are random. From there on the router is frozen and everything else, experts,
attention and embeddings, is trained around it. Which experts a concept calls is thus planted, and
all that carries it is learnt.

Axes: T tokens, C concepts, E experts, D d_model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import AutoTokenizer

from deepseemoe.config import ModelConfig
from deepseemoe.corpus.documents import domains_of
from deepseemoe.corpus.planted import PLANTED_DOMAINS, PLANTED_TRIGGERS, planted_classes
from deepseemoe.corpus.shards import TokenShard, read_shard
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.nanomoe.modeling import NanoMoeForCausalLM
from deepseemoe.model.text import PackedText
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.model.training import Trainer, new_network, save_network
from deepseemoe.names import Site
from deepseemoe.runtime.files import growing
from deepseemoe.runtime.seeds import generator

CONCEPTS = tuple(
    [f"domain:{name}" for name in PLANTED_DOMAINS] + [f"span:{name}" for name in PLANTED_TRIGGERS]
)
"""Expert i of the wired layer is called by concept i."""

SHARPNESS = 4.0
"""By how many logits tokens of a concept stand above the others, on average."""

SHRINKAGE = 0.1
"""Share of the mean variance that is added to all directions before probes are found."""


class Concepts(NamedTuple):
    """What is known of tokens: the class of each token id, the domain of each document."""

    class_of_token: Mapping[int, str]
    domain_of_doc: Sequence[str]

    @classmethod
    def of(cls, tokenizer: Path, documents: Path) -> "Concepts":
        """Return what the planted language says of its words, and the corpus of its documents."""
        vocabulary = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False).get_vocab()
        classes = {vocabulary[word]: name for word, name in planted_classes().items()}
        names, place = domains_of(documents)
        return cls(classes, [names[n] for n in place])

    def table(self, token_T: np.ndarray, doc_T: np.ndarray) -> np.ndarray:
        """Return which concepts hold of each token, bool (T, C).

        A domain holds of every token of its documents, function words too; a span of its words,
        which stand after its trigger alone.
        """
        word = np.array([self.class_of_token.get(int(token), "") for token in token_T])
        domain = np.array([f"domain:{self.domain_of_doc[doc]}" for doc in doc_T])
        return np.stack([(word == name) | (domain == name) for name in CONCEPTS], axis=1)


def train_wired(
    config: ModelConfig,
    *,
    layer: int,
    vocab_size: int,
    train: Sequence[Path],
    select: Sequence[Path],
    concepts: Concepts,
    folder: Path,
    seed: int,
) -> None:
    """Write a model folder whose router at `layer` reads the concepts.

    Raises ValueError where the architecture has fewer experts than there are concepts.
    """
    n_experts = config.architecture.n_experts
    if n_experts < len(CONCEPTS):
        raise ValueError(
            f"n_experts {n_experts} is too few to wire; there are {len(CONCEPTS)} concepts"
        )
    text = PackedText(train, seed=seed)
    network = new_network(
        config.architecture, vocab_size=vocab_size, max_positions=text.sequence_length, seed=seed
    )
    trainer = Trainer(config, network, text)
    n_steps = trainer.schedule.n_steps
    for step in range(n_steps // 2):
        trainer.step(step)
    wire(network, layer, [read_shard(path) for path in select], concepts, seed=seed)
    trainer = Trainer(config, network, text)
    for step in range(n_steps // 2, n_steps):
        trainer.step(step)
    with growing(folder) as partial:
        save_network(network, partial)


@torch.no_grad()
def wire(
    network: NanoMoeForCausalLM,
    layer: int,
    shards: Sequence[TokenShard],
    concepts: Concepts,
    *,
    seed: int,
) -> None:
    """Set the router's rows to probes, and freeze them."""
    x_TD, holds_TC = read_concepts(network, layer, shards, concepts)
    rows_CD = probes(x_TD, holds_TC)
    block = network.model.layers[layer]
    gate = block.mlp.gate.weight
    rng = generator(seed, "wired router")
    others = rng.normal(size=(gate.shape[0] - len(rows_CD), gate.shape[1]))
    others *= np.linalg.norm(rows_CD, axis=1).mean() / np.linalg.norm(others, axis=1)[:, None]
    gate.copy_(torch.from_numpy(np.concatenate([rows_CD, others])).float())
    gate.requires_grad_(False)
    block.post_attention_layernorm.weight.requires_grad_(False)  # else it sharpens the choice


@torch.no_grad()
def read_concepts(
    network: NanoMoeForCausalLM, layer: int, shards: Sequence[TokenShard], concepts: Concepts
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the router of `layer` reads (T, D), and what holds there (T, C)."""
    network.eval()
    site, model, read, holds = str(Site("moe_in", layer)), MoeModel(network), [], []
    for shard in shards:
        with model.record([site]) as acts:
            for start in range(0, len(shard.token_ids_SN), 32):
                part = slice(start, start + 32)
                tokens = shard.token_ids_SN[part]
                model.hidden_states(TokenBatch.from_arrays(tokens, shard.positions_SN[part]))
                read.append(acts[site].numpy().copy())
                holds.append(concepts.table(tokens.ravel(), shard.doc_ids_SN[part].ravel()))
    network.train().requires_grad_(True)  # a MoeModel is for reading, and has frozen it
    return np.concatenate(read).astype(np.float64), np.concatenate(holds)


def probes(x_TD: np.ndarray, holds_TC: np.ndarray) -> np.ndarray:
    """Return a direction (C, D) for each concept, along which its tokens stand SHARPNESS above.

    Linear discriminants: the difference of means through the inverse of the shrunk covariance.
    """
    covariance_DD = np.cov(x_TD.T)
    shrink = SHRINKAGE * np.trace(covariance_DD) / len(covariance_DD)
    inverse_DD = np.linalg.inv(covariance_DD + shrink * np.eye(len(covariance_DD)))
    rows = []
    for holds_T in holds_TC.T:
        apart_D = x_TD[holds_T].mean(0) - x_TD[~holds_T].mean(0)
        row_D = inverse_DD @ apart_D
        rows.append(row_D * (SHARPNESS / (row_D @ apart_D)))
    return np.stack(rows)
