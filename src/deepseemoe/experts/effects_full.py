"""Full effects: what routers decide where a feature is taken out of the running model.

On all its firing tokens in some sequences, what the feature has written is subtracted from the
residual stream, and everything after it, attention and other tokens included, is computed again.
Routing on the firing tokens is then compared with that of a run in which nothing was changed, on
the same sequences at once, so that both round alike.

    one      for the router of layer l, resid_post of l - 1 loses z d, d all that was written before
    window   a transcoder: moe_out of every layer of the window loses z d_l. A crosscoder:
             resid_post of every layer is that of the unchanged run less z d_l. What the residual
             stream holds there is d_l, not what a layer adds: subtracted from the changed stream,
             it would take away again what layers before have lost.

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
    ablation = Ablation(model, dictionary, layers, features, everywhere=_is_window(config))
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
        self._model, self._everywhere = model, everywhere
        self._is_stream = dictionary.kind == "crosscoder"
        before = {layer: written_before(dictionary, layer)[features] for layer in layers}
        self._before = {n: _on(model, rows_FD) for n, rows_FD in before.items()}
        written_FLD = torch.as_tensor(dictionary.decoder_FLD)[torch.from_numpy(features)]
        point = "resid_post" if self._is_stream else "moe_out"
        self._sites = [str(Site(point, layer)) for layer in dictionary.window.layers]
        self._written = [_on(model, rows_FD) for rows_FD in written_FLD.unbind(1)]

    @torch.inference_mode()
    def changes(self, place: int, some: Sequences) -> dict[int, np.ndarray]:
        """Return what each firing token changes (I, C, E) at the routers that the feature meets."""
        layers = [layer for layer, rows_FD in self._before.items() if rows_FD[place].any()]
        if not layers:
            return {}
        with_, clean = self._choices(some, layers, self._kept)
        if self._everywhere:
            gone, _ = self._with_edits(some, layers, self._window_edits(place, some, clean))
        else:
            gone = {}
            for layer in layers:
                site = str(Site("resid_post", layer - 1))
                edits = {site: _subtract(some, self._before[layer][place])}
                gone |= self._with_edits(some, [layer], edits)[0]
        return {
            layer: torch.stack(
                [here - there for here, there in zip(with_[layer], gone[layer], strict=True)], 1
            )
            .cpu()
            .numpy()
            for layer in layers
        }

    @property
    def _kept(self) -> list[str]:
        """What of the unchanged run the edits need."""
        return self._sites if self._everywhere and self._is_stream else []

    def _window_edits(
        self, place: int, some: Sequences, clean: dict[str, Tensor]
    ) -> dict[str, Edit]:
        edits = {}
        for site, rows_FD in zip(self._sites, self._written, strict=True):
            edits[site] = _subtract(some, rows_FD[place], clean.get(site))
        return edits

    def _with_edits(
        self, some: Sequences, layers: Sequence[int], edits: dict[str, Edit]
    ) -> tuple[dict[int, Choice], dict[str, Tensor]]:
        with self._model.edit(edits):
            return self._choices(some, layers, [])

    def _choices(
        self, some: Sequences, layers: Sequence[int], kept: Sequence[str]
    ) -> tuple[dict[int, Choice], dict[str, Tensor]]:
        """Run the model; return what routers choose on firing tokens, and values to keep."""
        model, found = self._model, {}
        names = ("moe_in", "expert_ids")
        sites = [str(Site(name, layer)) for layer in layers for name in names]
        with model.record([*sites, *kept], stop=True) as acts:
            model.hidden_states(some.tokens)
        for layer in layers:
            moe_in_ID, ids_IK = (
                acts[str(Site(name, layer))].to(model.device)[some.row_I] for name in names
            )
            choice = choice_of(Routed(model.route(layer, moe_in_ID).scores_TE, ids_IK))
            if not model.routes_single_tokens:
                choice = choice._replace(margin_TE=torch.full_like(choice.margin_TE, torch.nan))
            found[layer] = choice
        return found, {site: acts[site].to(model.device)[some.row_I] for site in kept}


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


def _subtract(some: Sequences, direction_D: Tensor, base_ID: Tensor | None = None) -> Edit:
    """Return an edit that takes z d from the firing tokens, of what they are or of `base_ID`."""

    def edit(value_TD: Tensor) -> Tensor:
        row_I, z_I = (part.to(value_TD.device) for part in (some.row_I, some.activation_I))
        old_ID = value_TD[row_I] if base_ID is None else base_ID
        new_TD = value_TD.clone()
        new_TD[row_I] = (old_ID.float() - z_I[:, None] * direction_D).to(new_TD.dtype)
        return new_TD

    return edit


def _is_window(config: ExpertsConfig) -> bool:
    return config.full_layers == "window"


def _on(model: MoeModel, rows_FD: np.ndarray | Tensor) -> Tensor:
    return torch.as_tensor(rows_FD).float().to(model.device)
