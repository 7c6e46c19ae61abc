"""TopK: the k highest scores of each token (Gao et al. 2024, arXiv 2406.04093).

A transcoder's source layers share k, earlier layers first: which features of a layer are active
then depends on that layer alone, as it must where a model is run layer by layer.

Exact, from entries above a guessed floor: a token that has too few of them is looked at again with
all of its pre-activations.

Axes: T tokens, F features; nnz entries.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from deepseemoe.dictionary.batch_topk import MARGIN, first_floor
from deepseemoe.dictionary.codes import Entries, offsets_of
from deepseemoe.dictionary.layout import Part
from deepseemoe.dictionary.ranked import shared
from deepseemoe.dictionary.ranks import ALONE, Ranks
from deepseemoe.dictionary.scan import SLACK, Job, Scanner, floors
from deepseemoe.dictionary.selection import Selection, Unpenalised, kept
from deepseemoe.dictionary.weights import Weights

SCARCE = 0.02
"""Share of tokens that may have too few entries above the floor; they take a second product."""


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
        floor = self._guesses.get(source)
        if floor is None:
            n_mine = k * n_tokens // self._ranks.n_ranks
            floor = self._ranks.least(first_floor(weights, jobs, norm_F, n_mine)) / 2
        entries = self._scanner.above(weights, jobs, floors(norm_F, floor))
        scores = entries.values * norm_F[entries.features]
        n_sure_T = torch.bincount(entries.tokens[scores > floor * (1 + SLACK)], minlength=n_tokens)
        n_sure_T = self._ranks.sum(n_sure_T)
        scarce = torch.nonzero(n_sure_T < k).squeeze(1)
        if len(scarce) and floor > 0:
            entries = self._with_all(weights, jobs, norm_F, entries, scarce)
            scores = entries.values * norm_F[entries.features]
        index, edges = self._highest(entries, scores, k, n_tokens)
        self._guesses[source] = float(edges.quantile(SCARCE)) * (1 - MARGIN)
        return kept(entries, index)

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
        entries: Entries,
        scarce: Tensor,
    ) -> Entries:
        """Return the entries with everything above 0 for the tokens `scarce`."""
        narrowed = [job.rows(scarce) for job in jobs]
        every = self._scanner.above(weights, narrowed, floors(norm_F, 0.0))
        is_scarce_T = torch.zeros(len(jobs[0].inputs_TR), dtype=torch.bool, device=scarce.device)
        is_scarce_T[scarce] = True
        others = kept(entries, torch.nonzero(~is_scarce_T[entries.tokens]).squeeze(1))
        again = every._replace(tokens=scarce[every.tokens])
        return in_order([others, again], len(norm_F))


def shares_of(k: int, parts: Sequence[Part]) -> dict[range, int]:
    """Return how many of `k` go to each source layer, as evenly as possible, earlier ones first."""
    sources = list(dict.fromkeys(part.reads for part in parts))
    return {s: k // len(sources) + (i < k % len(sources)) for i, s in enumerate(sources)}


def in_order(found: Sequence[Entries], n_features: int) -> Entries:
    """Return entries of several searches sorted by token, then by feature."""
    joined = Entries(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    return kept(joined, torch.argsort(joined.tokens * n_features + joined.features))


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
