"""What reconstructions of all layers of a window at once do to the model, by document.

Each arm is put into the same batches as the others; a clean run and one with zeros serve them all.

Axes: S sequences, N sequence length, T = S * N tokens, V vocabulary, K top_k.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepseemoe.activations.store import ActivationStore
from deepseemoe.corpus.shards import read_shard
from deepseemoe.dictionary.metrics import router_agreement
from deepseemoe.dictionary.splice import crosscoder_edits, zero_edits
from deepseemoe.dictionary.splice_metrics import CHUNK_TOKENS, SpliceBatch, splice_batches
from deepseemoe.justify.coders import Coder, moved
from deepseemoe.justify.sums import MODEL, Key, Sums, units_of
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.taps import Edit
from deepseemoe.names import Site


@torch.no_grad()
def measure_splices(
    coders: Mapping[str, Coder],
    model: MoeModel,
    *,
    stores: Sequence[ActivationStore],
    tokens: Sequence[Path],
    max_tokens: int,
    sums: Sums,
    batch_sequences: int = 8,
) -> None:
    """Add loss_recovered and router_agreement of every arm to `sums`; all code one window.

    Stores and token shards stand in the same order. Raises ValueError where they do not belong
    together.
    """
    window = next(iter(coders.values())).window
    watched = [layer for layer in model.moe_layers if layer > window.first]
    batches = splice_batches(stores, tokens, max_tokens=max_tokens, batch_sequences=batch_sequences)
    documents = _documents(tokens)
    placed = {arm: moved(coder, model.device) for arm, coder in coders.items()}
    for batch in batches:
        units = units_of(_next_of(documents, len(batch.is_valid_T)))
        _measure(placed, model, batch, units, watched, sums)


def _documents(tokens: Sequence[Path]) -> Iterator[NDArray[np.int64]]:
    """Yield the documents of each shard's tokens in text order, one sequence at a time."""
    for path in tokens:
        yield from read_shard(path).doc_ids_SN.astype(np.int64)


def _next_of(documents: Iterator[NDArray[np.int64]], n_tokens: int) -> NDArray[np.int64]:
    """Return the documents of the next `n_tokens` tokens, in whole sequences."""
    pieces: list[NDArray[np.int64]] = []
    while sum(map(len, pieces)) < n_tokens:
        pieces.append(next(documents))
    return np.concatenate(pieces)


def _measure(
    coders: Mapping[str, Coder],
    model: MoeModel,
    batch: SpliceBatch,
    units: NDArray[np.int64],
    watched: Sequence[int],
    sums: Sums,
) -> None:
    """Run the model on a batch: as it is, with zeros, and with each arm's reconstructions."""
    one = next(iter(coders.values()))
    is_valid_T = batch.is_valid_T.to(model.device)
    clean, recorded = _run(model, batch, {}, watched, one.read_names)
    ablated, _ = _run(model, batch, zero_edits(one, is_valid_T), watched)
    where, valid_units = clean.places.cpu().numpy(), units[batch.is_valid_T.numpy()]
    for arm, coder in coders.items():
        edits = crosscoder_edits(coder, recorded, is_valid_T)
        spliced, routed = _run(model, batch, edits, watched)
        lost = ablated.losses - spliced.losses, ablated.losses - clean.losses
        sums.add(Key(arm, "loss_recovered", MODEL), units[where], *lost)
        for layer in watched:
            ids = str(Site("expert_ids", layer))
            same = router_agreement(recorded[ids][is_valid_T], routed[ids][is_valid_T])
            sums.add(Key(arm, "router_agreement", layer), valid_units, same.cpu().numpy(), 1.0)


class Predicted:
    """The loss of a run at each place whose next token is in the same segment, nats."""

    def __init__(self, model: MoeModel, batch: SpliceBatch) -> None:
        logits_TV = model.logits(batch.tokens).flatten(0, 1)
        ids_T, positions_T = (part.flatten() for part in batch.tokens.to(model.device))
        self.places = torch.nonzero(positions_T.roll(-1) != 0).squeeze(1)
        pieces = [
            torch.nn.functional.cross_entropy(
                logits_TV[rows].float(), ids_T[rows + 1], reduction="none"
            )
            for rows in self.places.split(CHUNK_TOKENS)
        ]
        self.losses = torch.cat(pieces).double().cpu().numpy()


def _run(
    model: MoeModel,
    batch: SpliceBatch,
    edits: Mapping[str, Edit],
    watched: Sequence[int],
    sites: Sequence[str] = (),
) -> tuple[Predicted, Mapping[str, Tensor]]:
    """Return the losses of a run with edits, and the routing and what passed at `sites`."""
    names = [*sites, *(str(Site("expert_ids", layer)) for layer in watched)]
    with model.edit(edits), model.record(names) as acts:
        predicted = Predicted(model, batch)
    return predicted, {name: value.to(model.device) for name, value in acts.items()}
