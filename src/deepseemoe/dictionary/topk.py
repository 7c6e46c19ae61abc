"""TopK: the k highest scores of each token (Gao et al. 2024, arXiv 2406.04093).

A transcoder's source layers share k, earlier layers first: which features of a layer are active
then depends on that layer alone, as it must where a model is run layer by layer.

Exact, from entries above a guessed floor, in proportion to the token's norm: a token that has too
few of them is looked at again with all of its pre-activations.

Axes: T tokens, F features; nnz entries.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from deepseemoe.dictionary.batch_topk import first_floor
from deepseemoe.dictionary.codes import Entries, offsets_of
from deepseemoe.dictionary.layout import Part
from deepseemoe.dictionary.ranked import shared
from deepseemoe.dictionary.ranks import ALONE, Ranks
from deepseemoe.dictionary.scan import SLACK, Job, Scanner, floors
from deepseemoe.dictionary.selection import Selection, Unpenalised, kept
from deepseemoe.dictionary.weights import Weights

SCARCE = 0.02
"""Share of tokens that may have too few entries above the floor; they take a second product."""


MARGIN = 0.02
"""How far below the guess that leaves so many short the next floor is set."""


class TopK(Unpenalised):
    """Keeps the `k` highest scores of each token, fewer where few are above 0.

    `shares` says how many of k go to the features that read each source. Of equal ones at the edge
    the features of lower number are kept. The state is one guess a source, which makes it fast; the
    result does not depend on it.
    """

    def __init__(
        self, shares: Mapping[range, int], scanner: Scanner | None = None, ranks: Ranks = ALONE
    ) -> None:
        self._shares, self._ranks = shares, ranks
        self._guesses: dict[range, float] = {}
        self._scanner = scanner or Scanner()

    def select(self, weights: Weights, jobs: Sequence[Job], norm_F: Tensor) -> Selection:
        """Return the selection from the jobs of all parts."""
        sources = dict.fromkeys(job.part.reads for job in jobs)
        found = [
            self._of_source(weights, [job for job in jobs if job.part.reads == source], norm_F)
            for source in sources
        ]
        entries = found[0] if len(found) == 1 else in_order(found, len(norm_F))
        scores = entries.values * norm_F[entries.features]
        least = self._ranks.least(float(scores.min()) if len(scores) else float("inf"))
        n_elsewhere = int(self._ranks.total(len(scores))) - len(scores)
        return Selection(entries, least if least < float("inf") else 0.0, n_elsewhere=n_elsewhere)

    def _of_source(self, weights: Weights, jobs: Sequence[Job], norm_F: Tensor) -> Entries:
        """Return the highest of each token among features that read one source."""
        n_tokens, source = len(jobs[0].inputs_TR), jobs[0].part.reads
        k = self._shares[source]
        length_T = _lengths(jobs[0].inputs_TR)
        floor = self._guesses.get(source)
        if floor is None:
            n_mine = k * n_tokens // self._ranks.n_ranks
            first = first_floor(weights, jobs, norm_F, n_mine) / float(length_T.mean())
            floor = self._ranks.least(first) / 2
        entries = self._scanner.above(weights, jobs, floors(norm_F, floor), scale_T=length_T)
        scores = entries.values * norm_F[entries.features]
        is_sure = scores > floor * (1 + SLACK) * length_T[entries.tokens]
        n_sure_T = torch.bincount(entries.tokens[is_sure], minlength=n_tokens)
        scarce = torch.nonzero(self._ranks.sum(n_sure_T) < k).squeeze(1)
        index, edge_T = self._highest(entries, scores, k, n_tokens)
        found = kept(entries, index)
        if len(scarce) and floor > 0:
            found = self._with_all(weights, jobs, norm_F, found, scarce)
        self._guesses[source] = float((edge_T / length_T).quantile(SCARCE)) * (1 - MARGIN)
        return found

    def _highest(
        self, entries: Entries, scores: Tensor, k: int, n_tokens: int
    ) -> tuple[Tensor, Tensor]:
        """Return what `highest_of_each` does, over the features of all ranks."""
        index, edges = highest_of_each(entries.tokens, scores, k, n_tokens)
        if self._ranks.n_ranks == 1:
            return index, edges
        tokens, every, mine = shared(self._ranks, kept(entries, index), scores[index])
        chosen, edges = highest_of_each(tokens, every, k, n_tokens)
        mine = mine[chosen]
        return index[mine[mine >= 0]].sort().values, edges

    def _with_all(
        self,
        weights: Weights,
        jobs: Sequence[Job],
        norm_F: Tensor,
        found: Entries,
        scarce: Tensor,
    ) -> Entries:
        """Return the highest of each token, those of the tokens `scarce` found among all."""
        narrowed = [job.rows(scarce) for job in jobs]
        every = self._scanner.above(weights, narrowed, floors(norm_F, 0.0))
        scores, k = every.values * norm_F[every.features], self._shares[jobs[0].part.reads]
        again = kept(every, self._highest(every, scores, k, len(scarce))[0])
        is_scarce_T = torch.zeros(len(jobs[0].inputs_TR), dtype=torch.bool, device=scarce.device)
        is_scarce_T[scarce] = True
        others = kept(found, torch.nonzero(~is_scarce_T[found.tokens]).squeeze(1))
        return in_order([others, again._replace(tokens=scarce[again.tokens])], len(norm_F))


def _lengths(inputs_TR: Tensor) -> Tensor:
    """Return the norm of what each token reads, (T,); what is highest goes roughly by it."""
    length_T = torch.linalg.vector_norm(inputs_TR, dim=1)
    return length_T.clamp_min(1e-3 * float(length_T.mean()) or 1.0)


def shares_of(k: int, parts: Sequence[Part]) -> dict[range, int]:
    """Return how many of `k` go to each source layer, as evenly as possible, earlier ones first."""
    sources = list(dict.fromkeys(part.reads for part in parts))
    return {s: k // len(sources) + (i < k % len(sources)) for i, s in enumerate(sources)}


def in_order(found: Sequence[Entries], n_features: int) -> Entries:
    """Return entries of several searches sorted by token, then by feature."""
    joined = Entries(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    places = joined.tokens * n_features + joined.features
    if places.device.type == "cpu":  # numpy's stable sort merges runs that are there
        return kept(joined, torch.from_numpy(places.numpy().argsort(kind="stable")))
    return kept(joined, torch.argsort(places))


def highest_of_each(tokens: Tensor, scores: Tensor, k: int, n_tokens: int) -> tuple[Tensor, Tensor]:
    """Return the indices of each token's `k` highest scores, rising, and each token's lowest kept.

    `tokens` is sorted and scores are above 0. Tokens without any have an edge of 0.
    """
    order = _by_token_then_falling(tokens, scores)
    offsets = offsets_of(tokens, n_tokens)
    counts = offsets.diff()
    rank = torch.arange(len(tokens), device=tokens.device) - offsets[:-1].repeat_interleave(counts)
    index = order[rank < k].sort().values
    last = offsets[:-1] + counts.clamp_max(k) - 1
    sorted_scores = torch.cat([scores[order], scores.new_zeros(1)])  # last is -1 where none is
    return index, torch.where(counts > 0, sorted_scores[last], 0.0)


def _by_token_then_falling(tokens: Tensor, scores: Tensor) -> Tensor:
    """Return the order by token, then by falling score, then by place.

    One sort of whole numbers: bits of floats above 0 sort as the floats do.
    """
    if scores.dtype != torch.float32:
        falling = torch.argsort(scores, descending=True, stable=True)
        return falling[torch.argsort(tokens[falling], stable=True)]
    key = (tokens << 32) - scores.view(torch.int32)
    return torch.sort(key, stable=True).indices
