"""Exact selections over the features of all ranks; each finds those of its own that are chosen.

The same entries are chosen whatever the number of ranks, ties included: of equal scores at the edge
those of the first token, then of the first feature of the whole dictionary.

Axes: T tokens, A dead features, K places for a token's highest.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepseemoe.dictionary.codes import Entries
from deepseemoe.dictionary.ranks import Ranks
from deepseemoe.dictionary.selection import highest


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
    edge = _edge(every, n_keep)
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


def edges_of_rows(ranks: Ranks, values_TA: Tensor, k: int) -> Tensor:
    """Return the `k`-th highest value of each row over all ranks, which have more, (T, 1)."""
    if ranks.n_ranks == 1 and values_TA.device.type == "cpu":
        # numpy's partition takes a third of the time of torch's topk
        place = values_TA.shape[1] - k
        return torch.from_numpy(np.partition(values_TA.numpy(), place, axis=1)[:, place, None])
    mine_TK = values_TA.topk(min(k, values_TA.shape[1]), dim=1, sorted=False).values
    if ranks.n_ranks > 1:
        padded_TK = values_TA.new_full((len(values_TA), k), -torch.inf)
        padded_TK[:, : mine_TK.shape[1]] = mine_TK
        every = ranks.gather(padded_TK.view(-1)).values.view(ranks.n_ranks, len(values_TA), k)
        mine_TK = every.transpose(0, 1).flatten(1).topk(k, dim=1, sorted=False).values
    return mine_TK.amin(1, keepdim=True)


def _edge(scores: Tensor, n_keep: int) -> Tensor | float:
    """Return the `n_keep`-th highest score."""
    place = len(scores) - n_keep
    if scores.device.type == "cpu":
        return float(np.partition(scores.numpy(), place)[place])
    return scores.kthvalue(place + 1).values


def _places(ranks: Ranks, entries: Entries) -> Tensor:
    """Return numbers that sort entries by token, then by feature of the whole dictionary."""
    return (entries.tokens << 32) + ranks.places(entries.features)
