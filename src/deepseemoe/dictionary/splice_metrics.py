"""What splicing reconstructions into the model does to its predictions and to its routers.

Three forward passes for each batch of test sequences: as it is, with reconstructions, with zeros.

Axes: S sequences, N sequence length, T = S * N tokens, V vocabulary, E experts, K top_k.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepseemoe.activations.store import ActivationStore
from deepseemoe.corpus.shards import TokenShard, read_shard
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.metrics import Predictions, recovered, router_agreement, routing_kl
from deepseemoe.dictionary.splice import crosscoder_edits, transcoder_edits, zero_edits
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.taps import Edit
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.names import Site
from deepseemoe.runtime.progress import Progress

CHUNK_TOKENS = 512
"""Rows of log-probabilities at once: 8 MB each at a vocabulary of 4096."""


class SpliceBatch(NamedTuple):
    """Some sequences of the test split, and which of their tokens are valid."""

    tokens: TokenBatch
    is_valid_T: Tensor


def splice_batches(
    stores: Sequence[ActivationStore],
    tokens: Sequence[Path],
    *,
    max_tokens: int,
    batch_sequences: int,
) -> Iterator[SpliceBatch]:
    """Yield the first `max_tokens` tokens of the test split, in whole sequences.

    Raises ValueError where a store does not hold the tokens of its shard.
    """
    n_left = max_tokens
    for store, path in zip(stores, tokens, strict=True):
        shard = read_shard(path)
        is_valid_SN = _valid_in_text(store, shard, path)
        n_sequences = min(len(is_valid_SN), -(-n_left // is_valid_SN.shape[1]))
        for first in range(0, n_sequences, batch_sequences):
            rows = slice(first, min(first + batch_sequences, n_sequences))
            batch = TokenBatch.from_arrays(shard.token_ids_SN[rows], shard.positions_SN[rows])
            yield SpliceBatch(batch, torch.from_numpy(is_valid_SN[rows].reshape(-1)))
        n_left -= n_sequences * is_valid_SN.shape[1]
        if n_left <= 0:
            return


def _valid_in_text(store: ActivationStore, shard: TokenShard, path: Path) -> NDArray[np.bool_]:
    """Return which tokens of a shard are valid, (S, N), as its store says."""
    order = store.text_order()
    token_ids = store["token_id"].whole()[order]
    if token_ids.shape != (shard.token_ids_SN.size,) or (
        (token_ids != shard.token_ids_SN.reshape(-1)).any()
    ):
        raise ValueError(
            f"{store.path}: its tokens are not those of {path}; give stores and token shards of "
            "one run, in the same order"
        )
    return store.valid_rows()[order].reshape(shard.token_ids_SN.shape)


class SpliceMetrics:
    """Running metrics of one dictionary in one model."""

    def __init__(self, dictionary: Dictionary, model: MoeModel) -> None:
        """Watch the routers behind the first layer that is replaced; none may be there."""
        self._dictionary, self._model = dictionary, model
        self.layers = [layer for layer in model.moe_layers if layer > dictionary.window.first]
        self._watched = [
            str(Site(array, layer))
            for layer in self.layers
            for array in ("expert_ids", "router_logits")
        ]
        self._sums = {name: Predictions() for name in ("original", "spliced", "ablated")}
        self._agreement = dict.fromkeys(self.layers, 0.0)
        self._routing_kl = dict.fromkeys(self.layers, 0.0)
        self._n_tokens = self._n_valid = self._n_targets = 0

    @torch.no_grad()
    def add(self, batch: SpliceBatch) -> None:
        """Run the model three times on a batch."""
        is_valid_T = batch.is_valid_T.to(self._model.device)
        reads = self._dictionary.read_names
        original, clean = self._run(batch, {}, reads)
        if self._dictionary.kind == "crosscoder":
            edits = crosscoder_edits(self._dictionary, clean, is_valid_T)
        else:
            edits = transcoder_edits(self._dictionary, is_valid_T)
        spliced, routed = self._run(batch, edits)
        ablated, _ = self._run(batch, zero_edits(self._dictionary, is_valid_T))
        self._add_routing(clean, routed, is_valid_T)
        self._add_predictions(batch.tokens, original, spliced, ablated)
        self._n_tokens += len(is_valid_T)
        self._n_valid += int(is_valid_T.sum())

    def _run(
        self, batch: SpliceBatch, edits: Mapping[str, Edit], sites: Sequence[str] = ()
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the logits (S, N, V), and the routing and what passed at `sites`."""
        with self._model.edit(edits), self._model.record([*sites, *self._watched]) as acts:
            logits = self._model.logits(batch.tokens)
        return logits, {name: value.to(self._model.device) for name, value in acts.items()}

    def _add_routing(
        self, clean: Mapping[str, Tensor], routed: Mapping[str, Tensor], is_valid_T: Tensor
    ) -> None:
        for layer in self.layers:
            ids, logits = (str(Site(name, layer)) for name in ("expert_ids", "router_logits"))
            same_T = router_agreement(clean[ids][is_valid_T], routed[ids][is_valid_T])
            kl_T = routing_kl(clean[logits][is_valid_T], routed[logits][is_valid_T])
            self._agreement[layer] += float(same_T.sum())
            self._routing_kl[layer] += float(kl_T.sum())

    def _add_predictions(self, tokens: TokenBatch, *logits_SNV: Tensor) -> None:
        """Take in the logits of the three runs where the next token is in the same segment."""
        ids_T, positions_T = (part.flatten() for part in tokens.to(self._model.device))
        has_next_T = positions_T.roll(-1) != 0  # the last of a sequence meets a 0, a position too
        places = torch.nonzero(has_next_T).squeeze(1)
        runs_TV = [logits.flatten(0, 1) for logits in logits_SNV]
        for rows in places.split(CHUNK_TOKENS):
            logs_TV = [torch.log_softmax(run[rows].float(), -1) for run in runs_TV]
            for sums, log_p_TV in zip(self._sums.values(), logs_TV, strict=True):
                sums.add(log_p_TV, logs_TV[0], ids_T[rows + 1])
        self._n_targets += len(places)

    def values(self) -> dict[str, Any]:
        """Return all metrics as plain data; None where there was nothing to measure."""
        n = max(self._n_targets, 1)
        cross_entropy = {name: sums.cross_entropy / n for name, sums in self._sums.items()}
        kl = {name: sums.kl / n for name, sums in self._sums.items()}
        agreement = [self._agreement[layer] / max(self._n_valid, 1) for layer in self.layers]
        routing = [self._routing_kl[layer] / max(self._n_valid, 1) for layer in self.layers]
        return {
            "loss_recovered": recovered(**cross_entropy),
            "kl_recovered": recovered(**kl),
            "cross_entropy": cross_entropy,
            "kl": kl,
            "router_layers": self.layers,
            "router_agreement": _mean(agreement),
            "router_agreement_by_layer": agreement,
            "routing_kl": _mean(routing),
            "routing_kl_by_layer": routing,
            "n_spliced_tokens": self._n_tokens,
        }


def splice_metrics(
    dictionary: Dictionary, model: MoeModel, batches: Iterator[SpliceBatch], *, max_tokens: int
) -> dict[str, Any]:
    """Return what splicing does to the model's predictions and routers."""
    metrics = SpliceMetrics(dictionary, model)
    progress = Progress("evaluate_dictionary", max_tokens)
    for batch in batches:
        metrics.add(batch)
        progress.advance(len(batch.is_valid_T))
    return metrics.values()


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
