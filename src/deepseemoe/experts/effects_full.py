"""Full effects: what routers decide where a feature is taken out of the running model.

On all its firing tokens in some sequences, what the feature has written is subtracted from the
residual stream, and everything after it, attention and other tokens included, is computed again.
Routing on the firing tokens is then compared with that of a run in which nothing was changed, on
the same sequences at once, so that both round alike.

    one      for the router of layer l, resid_post of l - 1 loses z d, d all that was written before
    window   every layer of the window loses what the feature writes there, as `steering.edits_of`
             has it

Axes: T tokens of a batch, S sequences, N sequence length, F features taken out, I firing tokens,
D d_model, E experts.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from deepseemoe.config import ExpertsConfig
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.steering import added, edits_of
from deepseemoe.experts import token_batches
from deepseemoe.experts.documents import ShardSource
from deepseemoe.experts.effect_sums import Effects, EffectSums
from deepseemoe.experts.effects_local import Choice, Sampler, choice_of
from deepseemoe.experts.token_batches import Batch, batches
from deepseemoe.experts.weights import written_before
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.taps import Edit
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.names import Site


class Sequences(NamedTuple):
    """Some sequences, and where in them a feature fires: row among their tokens, activation."""

    tokens: TokenBatch
    document_I: np.ndarray
    row_I: Tensor
    activation_I: Tensor


class Routed(NamedTuple):
    """What `choice_of` needs of a router's decisions."""

    scores_TE: Tensor
    ids_TK: Tensor


def measure_full(
    config: ExpertsConfig,
    *,
    model: MoeModel,
    dictionary: Dictionary,
    layers: Sequence[int],
    features: np.ndarray,
    sources: Sequence[ShardSource],
    corpus: Sequence[ShardSource],
    seed: int,
) -> dict[int, Effects]:
    """Return the full effects (F, E) of `features` on the routers of each layer.

    Of no token where a feature writes nothing before the router.
    """
    sums = {layer: EffectSums(features.size, model.n_experts) for layer in layers}
    ablation = Ablation(
        model, dictionary, layers, features, everywhere=config.full_layers == "window"
    )
    drawn = draw_sequences(sources, corpus, features, n_wanted=config.full_sequences, seed=seed)
    for place, all_of_feature in enumerate(drawn):
        for some in all_of_feature:
            for layer, changes_ICE in ablation.changes(place, some).items():
                sums[layer].add(some.document_I, np.full(some.document_I.size, place), changes_ICE)
    return {layer: one.effects(config.confidence) for layer, one in sums.items()}


class Ablation:
    """Take features out of a running model; each is named by its place among `features`."""

    def __init__(
        self,
        model: MoeModel,
        dictionary: Dictionary,
        layers: Sequence[int],
        features: np.ndarray,
        *,
        everywhere: bool,
    ):
        self._model, self._dictionary, self._everywhere = model, dictionary, everywhere
        self._features = features
        before = {layer: written_before(dictionary, layer)[features] for layer in layers}
        self._before = {n: _on(model, rows_FD) for n, rows_FD in before.items()}

    @torch.inference_mode()
    def changes(self, place: int, some: Sequences) -> dict[int, np.ndarray]:
        """Return what each firing token changes (I, C, E) at the routers that the feature meets."""
        layers = [layer for layer, rows_FD in self._before.items() if rows_FD[place].any()]
        if not layers:
            return {}
        with_, gone = self._choices(some, layers), {}
        for edits, seen in self._edits(place, some, layers):
            with self._model.edit(edits):
                gone |= self._choices(some, seen)
        return {
            layer: torch.stack(
                [here - there for here, there in zip(with_[layer], gone[layer], strict=True)], 1
            )
            .cpu()
            .numpy()
            for layer in layers
        }

    def _edits(
        self, place: int, some: Sequences, layers: Sequence[int]
    ) -> Iterator[tuple[dict[str, Edit], Sequence[int]]]:
        """Yield the edits of each changed run, and the routers that are looked at in it."""
        if self._everywhere:
            amount_T = torch.zeros(some.tokens.token_ids.numel())
            amount_T[some.row_I] = -some.activation_I
            amounts = {int(self._features[place]): amount_T.numpy()}
            change = added(self._dictionary, amounts, n_tokens=len(amount_T))
            yield edits_of(self._dictionary, change), layers
            return
        for layer in layers:
            direction_D = self._before[layer][place]
            yield {str(Site("resid_post", layer - 1)): _subtract(some, direction_D)}, [layer]

    def _choices(self, some: Sequences, layers: Sequence[int]) -> dict[int, Choice]:
        """Run the model; return what routers choose on the firing tokens."""
        model, found = self._model, {}
        names = ("moe_in", "expert_ids")
        sites = [str(Site(name, layer)) for layer in layers for name in names]
        with model.record(sites, stop=True) as acts:
            model.hidden_states(some.tokens)
        for layer in layers:
            moe_in_ID, ids_IK = (
                acts[str(Site(name, layer))].to(model.device)[some.row_I] for name in names
            )
            choice = choice_of(Routed(model.route(layer, moe_in_ID).scores_TE, ids_IK))
            if not model.routes_single_tokens:
                choice = choice._replace(margin_TE=torch.full_like(choice.margin_TE, torch.nan))
            found[layer] = choice
        return found


def draw_sequences(
    sources: Sequence[ShardSource],
    corpus: Sequence[ShardSource],
    features: np.ndarray,
    *,
    n_wanted: int,
    seed: int,
) -> list[list[Sequences]]:
    """Return, for each feature, up to `n_wanted` of the sequences in which it fires, in batches.

    At equal distances among all such sequences, from a random start.
    """
    counts_F = np.zeros(features.size, np.int64)
    for batch in batches(sources, corpus, features):
        counts_F += np.asarray(_fires(batch).sum(0)).ravel().astype(np.int64)
    sampler = Sampler(counts_F, n_wanted, seed=seed, purpose="sequences")
    found: list[list[tuple]] = [[] for _ in features]
    for batch in batches(sources, corpus, features):
        drawn, columns_TF = sampler.take(_fires(batch)), batch.features_TF.tocsc()
        for sequence, feature in zip(drawn.row_I, drawn.feature_I, strict=True):
            found[feature].append(_one(batch, columns_TF, int(sequence), int(feature)))
    return [[_together(part) for part in _cut(parts)] for parts in found]


def _fires(batch: Batch) -> sp.csr_array:
    """Return 1 where a feature fires in a sequence (S, F)."""
    entries = batch.features_TF.tocoo()
    shape = len(batch.tokens.token_ids), batch.features_TF.shape[1]
    fires_SF = sp.csr_array(
        (np.ones(entries.nnz), (entries.row // batch.length, entries.col)), shape=shape
    )
    fires_SF.sum_duplicates()
    fires_SF.data[:] = 1
    return fires_SF


def _one(
    batch: Batch, columns_TF: sp.csc_array, sequence: int, feature: int
) -> tuple[np.ndarray, ...]:
    """Return tokens, positions, rows, activations and documents of a feature in one sequence."""
    start = sequence * batch.length
    column = slice(*columns_TF.indptr[feature : feature + 2])
    row_I = columns_TF.indices[column].astype(np.int64)
    mine = (row_I >= start) & (row_I < start + batch.length)
    order = np.argsort(row_I[mine])
    row_I, z_I = row_I[mine][order], columns_TF.data[column][mine][order]
    ids_N, positions_N = (part[sequence].numpy() for part in batch.tokens)
    return ids_N, positions_N, row_I - start, z_I, batch.document_T[row_I]


def _cut(parts: list[tuple]) -> Iterator[list[tuple]]:
    """Yield sequences a few at a time, as many as a batch has."""
    step = max(token_batches.BATCH_TOKENS // max((len(part[0]) for part in parts), default=1), 1)
    for start in range(0, len(parts), step):
        yield parts[start : start + step]


def _together(parts: list[tuple]) -> Sequences:
    ids, positions, rows, activations, documents = zip(*parts, strict=True)
    starts = np.arange(len(parts)) * len(ids[0])
    return Sequences(
        TokenBatch.from_arrays(np.stack(ids), np.stack(positions)),
        np.concatenate(documents),
        torch.from_numpy(np.concatenate([a + b for a, b in zip(rows, starts, strict=True)])),
        torch.from_numpy(np.concatenate(activations)),
    )


def _subtract(some: Sequences, direction_D: Tensor) -> Edit:
    """Return an edit that takes z d from the firing tokens."""

    def edit(value_TD: Tensor) -> Tensor:
        row_I, z_I = (part.to(value_TD.device) for part in (some.row_I, some.activation_I))
        new_TD = value_TD.clone()
        changed_ID = value_TD[row_I].float() - z_I[:, None] * direction_D
        new_TD[row_I] = changed_ID.to(new_TD.dtype)
        return new_TD

    return edit


def _on(model: MoeModel, rows_FD: np.ndarray | Tensor) -> Tensor:
    return torch.as_tensor(rows_FD).float().to(model.device)
