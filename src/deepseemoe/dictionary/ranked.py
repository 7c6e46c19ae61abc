"""Exact selections over the features of all ranks; each finds those of its own that are chosen.

The same entries are chosen whatever the number of ranks, ties included: of equal scores at the edge
those of the first token, then of the first feature of the whole dictionary.

Axes: T tokens, A dead features, K places for a token's highest.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from deepseemoe.dictionary.codes import Entries
from deepseemoe.dictionary.ranks import Ranks
from deepseemoe.dictionary.selection import edge_of, highest


class Chosen(NamedTuple):
    """Indices of this rank's chosen entries, rising; the smallest score and how many of all."""

    index: Tensor
    least: float
    n_chosen: int


def highest_of_all(ranks: Ranks, entries: Entries, scores: Tensor, n_keep: int) -> Chosen:
    """Return which entries are among the `n_keep` highest scores of all ranks."""
    if ranks.n_ranks == 1:
        index = highest(scores, n_keep)
        return Chosen(index, float(scores[index].min()) if len(index) else 0.0, len(index))
    every = ranks.gather(scores).values
    if len(every) <= n_keep:
        everything = torch.arange(len(scores), device=scores.device)
        return Chosen(everything, float(every.min()) if len(every) else 0.0, len(every))
    edge = edge_of(every, n_keep)
    is_kept = scores > edge
    tied = torch.nonzero(scores == edge).squeeze(1)
    n_room = n_keep - int((every > edge).sum())
    if int((every == edge).sum()) > n_room:
        places = _places(ranks, entries)[tied]
        tied = tied[places <= ranks.gather(places).values.sort().values[n_room - 1]]
    is_kept[tied] = True
    return Chosen(torch.nonzero(is_kept).squeeze(1), float(edge), n_keep)


def shared(ranks: Ranks, entries: Entries, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens and scores of the entries of all ranks in the whole dictionary's order.

    The third says which of this rank's entries each is, -1 for those of others.
    """
    tokens, first = ranks.gather(entries.tokens)
    order = ranks.gather(_places(ranks, entries)).values.argsort()
    mine = order - first
    is_mine = (mine >= 0) & (mine < len(scores))
    return tokens[order], ranks.gather(scores).values[order], torch.where(is_mine, mine, -1)


def highest_of_rows(ranks: Ranks, values_TA: Tensor, k: int, n_all: int) -> Tensor | None:
    """Return which values are among the `k` highest of their row over all ranks, (T, A).

    `n_all` is the length of a row over all ranks. None where all are.
    """
    if n_all <= k:
        return None
    is_kept_TA = torch.zeros_like(values_TA, dtype=torch.bool)
    if ranks.n_ranks == 1:
        return is_kept_TA.scatter_(1, values_TA.topk(k, dim=1, sorted=False).indices, True)
    best = values_TA.topk(min(k, values_TA.shape[1]), dim=1)
    padded_TK = values_TA.new_full((len(values_TA), k), -torch.inf)
    padded_TK[:, : best.values.shape[1]] = best.values
    every = ranks.gather(padded_TK.view(-1)).values.view(ranks.n_ranks, len(values_TA), k)
    places = every.transpose(0, 1).flatten(1).topk(k, dim=1).indices - k * ranks.rank
    is_mine = (places >= 0) & (places < best.values.shape[1])
    rows = torch.nonzero(is_mine)[:, 0]
    is_kept_TA[rows, best.indices[rows, places[is_mine]]] = True
    return is_kept_TA


def _places(ranks: Ranks, entries: Entries) -> Tensor:
    """Return numbers that sort entries by token, then by feature of the whole dictionary."""
    return (entries.tokens << 32) + ranks.places(entries.features)
