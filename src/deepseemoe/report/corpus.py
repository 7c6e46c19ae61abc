"""The corpus in numbers: what each split holds, by domain, and what was dropped, by reason."""

from typing import NamedTuple

import numpy as np

from deepseemoe.corpus.documents import REASONS
from deepseemoe.names import SPLITS
from deepseemoe.report.tables import Table, select

DOCUMENT_COLUMNS = ("domain", "n_tokens", "split", "reason")
MAX_DOMAINS = 12


class Amount(NamedTuple):
    """Documents and their tokens."""

    n_documents: int
    n_tokens: int


class DomainAmount(NamedTuple):
    """A domain with its amount in each split, in the order of SPLITS."""

    name: str
    splits: tuple[Amount, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens over all splits."""
        return sum(amount.n_tokens for amount in self.splits)


class CorpusView(NamedTuple):
    """Kept text by split and domain, and dropped documents by reason, most frequent first."""

    splits: dict[str, Amount]
    domains: list[DomainAmount]
    dropped: list[tuple[str, int]]
    """What was wrong, and with how many documents."""


def view_corpus(documents: Table) -> CorpusView:
    """Count the documents of `documents.parquet`; the smallest domains are put together."""
    kept = select(documents, documents["reason"] == "kept")
    names = np.array([name or "no label" for name in kept["domain"]], dtype=object)
    counted = [DomainAmount(name, _by_split(select(kept, names == name))) for name in set(names)]
    counted.sort(key=lambda domain: (-domain.n_tokens, domain.name))
    reasons = documents["reason"][documents["reason"] != "kept"].tolist()
    dropped = [(REASONS.get(reason, reason), reasons.count(reason)) for reason in set(reasons)]
    return CorpusView(
        splits=dict(zip(SPLITS, _by_split(kept), strict=True)),
        domains=_with_the_rest_together(counted),
        dropped=sorted(dropped, key=lambda pair: (-pair[1], pair[0])),
    )


def _by_split(documents: Table) -> tuple[Amount, ...]:
    chosen = [documents["split"] == split for split in SPLITS]
    return tuple(Amount(int(rows.sum()), int(documents["n_tokens"][rows].sum())) for rows in chosen)


def _with_the_rest_together(domains: list[DomainAmount]) -> list[DomainAmount]:
    if len(domains) <= MAX_DOMAINS:
        return domains
    rest = domains[MAX_DOMAINS - 1 :]
    amounts = (
        Amount(*map(sum, zip(*(one.splits[place] for one in rest), strict=True)))
        for place in range(len(SPLITS))
    )
    return [*domains[: MAX_DOMAINS - 1], DomainAmount(f"{len(rest)} others", tuple(amounts))]
