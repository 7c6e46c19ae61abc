"""The contexts of a feature as a language model sees them: cleaned, on one line, some marked.

What is shown to explain a feature and what is judged come from different halves of the documents;
the table is made so, and it is asserted here, since every score rests on it.
"""

from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from deepseemoe.corpus.documents import domains_of
from deepseemoe.labels.asking.redact import redact

MARKED = 0.3
"""Share of a context's highest activation from which a token is marked, as in Delphi's code."""

CHARACTERS = 3
"""Of a token of the language model, at least."""

KEPT_GROUPS = 4
"""Row groups of the table that stay in memory."""


_UNMARKED = str.maketrans("«»", "‹›")


class Context(NamedTuple):
    """One context of a feature; `activations` has a number for each of `tokens`."""

    group: str
    doc_id: int
    tokens: Sequence[str]
    activations: Sequence[float]

    @property
    def text(self) -> str:
        """The context as it stands in the document, on one line."""
        return _one_line("".join(self.tokens))

    @property
    def is_marked(self) -> list[bool]:
        """Which tokens are strongly active."""
        least = MARKED * max(self.activations)
        return [activation > least for activation in self.activations]

    def marked(self, is_marked: Sequence[bool] | None = None) -> str:
        """Return the context with runs of marked tokens between « and »; by default active ones.

        Such quotation marks of the text itself become single ones, so that no text marks itself.
        """
        parts, was_on = [], False
        marks = self.is_marked if is_marked is None else is_marked
        for token, is_on in zip(self.tokens, marks, strict=True):
            parts += ["«" if is_on and not was_on else "»" if was_on and not is_on else ""]
            parts.append(token.translate(_UNMARKED))
            was_on = is_on
        return _one_line("".join(parts) + ("»" if was_on else ""))


class FeatureContexts(NamedTuple):
    """The contexts of a feature by what they are for; the first two are of the explaining half."""

    shown: list[Context]
    """With the feature, the strongest first"""
    lookalikes: list[Context]
    """Near misses: its tokens without it, and what its nearest features fire on"""
    active: list[Context]
    """With the feature, of the held-out half"""
    random: list[Context]
    """Without it"""
    near: list[Context]
    """Near misses"""


class ContextTable:
    """examples.parquet, read row group by row group as features are asked for."""

    def __init__(
        self,
        path: Path,
        *,
        redacted: Collection[str] = (),
        documents: np.ndarray | None = None,
    ):
        """Take the table, what is cut out of texts, and which documents may be used (N,) or all."""
        self._file = pq.ParquetFile(path)
        self._redacted, self._documents = redacted, documents
        column = self._file.schema_arrow.get_field_index("feature")
        groups = [self._file.metadata.row_group(n) for n in range(self._file.num_row_groups)]
        # An empty table has one group, without rows and so without a first and a last.
        statistics = [group.column(column).statistics for group in groups if group.num_rows]
        self._first = np.array([one.min for one in statistics], np.int64)
        self._last = np.array([one.max for one in statistics], np.int64)
        self._rows = lru_cache(KEPT_GROUPS)(self._read)

    @property
    def most_tokens(self) -> int:
        """Tokens of a language model that a context may take: the longest of the first rows."""
        if not self._file.metadata.num_rows:
            return 0
        rows = [row for feature in self._rows(0).values() for row in feature]
        return max(len("".join(row["tokens"])) for row in rows) // CHARACTERS + 1

    def of(self, feature: int) -> FeatureContexts:
        """Return the contexts of one feature; both halves have different documents."""
        parts: dict[tuple[bool, str], list[Context]] = {}
        documents: dict[bool, set[int]] = {True: set(), False: set()}
        for row in self._of_feature(feature):
            if self._documents is not None and not self._documents[row["doc_id"]]:
                continue
            explains, sort = row["half"] == "explain", sort_of(row["group"])
            documents[explains].add(row["doc_id"])
            parts.setdefault((explains, sort), []).append(self._context(row))
        shared = documents[True] & documents[False]
        assert not shared, f"documents {shared} explain and judge at once"
        shown = sorted(parts.get((True, "active"), []), key=lambda one: -max(one.activations))
        return FeatureContexts(
            shown,
            parts.get((True, "near"), []),
            *(parts.get((False, sort), []) for sort in ("active", "random", "near")),
        )

    def _context(self, row: dict) -> Context:
        tokens, activations = redact(row["tokens"], row["activations"], self._redacted)
        return Context(row["group"], row["doc_id"], tokens, activations)

    def _of_feature(self, feature: int) -> list[dict]:
        """Return the rows of a feature, from the one or few row groups that hold them."""
        holds = np.flatnonzero((self._first <= feature) & (feature <= self._last))
        return [row for group in holds for row in self._rows(int(group)).get(feature, [])]

    def _read(self, group: int) -> dict[int, list[dict]]:
        columns = ["feature", "half", "group", "doc_id", "tokens", "activations"]
        rows: dict[int, list[dict]] = {}
        for row in self._file.read_row_group(group, columns=columns).to_pylist():
            rows.setdefault(row["feature"], []).append(row)
        return rows


def allowed_documents(documents: Path, domains: Sequence[str] | None) -> np.ndarray | None:
    """Return which documents (N,) are of the domains; None where all may be used.

    Raises ValueError for a domain that no document has.
    """
    if domains is None:
        return None
    names, domain_of = domains_of(documents)
    unknown = sorted(set(domains) - set(names))
    if unknown:
        raise ValueError(f"labels.domains: no document is of {unknown}; found {sorted(names)}")
    wanted = [n for n, name in enumerate(names) if name in domains]
    return np.isin(np.asarray(domain_of), wanted)


def sort_of(group: str) -> str:
    """Return `active`, `near` or `random`: what a group of contexts stands for."""
    if group in ("near", "neighbour"):
        return "near"
    return "random" if group == "random" else "active"


def spread(contexts: Sequence[Context], n: int) -> list[Context]:
    """Return at most n contexts, one of each group in turn, in their order within it."""
    groups: dict[str, list[Context]] = {}
    for context in contexts:
        groups.setdefault(context.group, []).append(context)
    longest = max(map(len, groups.values()), default=0)
    turns = [
        group[turn] for turn in range(longest) for group in groups.values() if turn < len(group)
    ]
    return turns[:n]


def numbered(texts: Sequence[str]) -> str:
    """Return texts as `1. …`, one a line."""
    return "\n".join(f"{n}. {text}" for n, text in enumerate(texts, start=1))


def _one_line(text: str) -> str:
    return text.replace("\r", "").replace("\n", "⏎").replace("\t", "⇥")
