"""Experts as the page shows them: their load, domains, tokens, links and what they write."""

from typing import NamedTuple

import numpy as np

from deepseemoe.names import ExpertId
from deepseemoe.report.contexts import visible
from deepseemoe.report.domains import DOMAIN_COLUMNS, overall_share
from deepseemoe.report.links import Link
from deepseemoe.report.load import LOAD_COLUMNS
from deepseemoe.report.tables import RunTables, Table, read_columns, select
from deepseemoe.report.writes import Written

VOCABULARY_COLUMNS = (
    "layer", "expert", "token", "p_expert_given_token", "n_tokens", "lift",
)  # fmt: skip
N_DOMAINS, N_TOKENS = 3, 10


class DomainLift(NamedTuple):
    """How much more often an expert is chosen in a domain than overall, with its interval."""

    name: str
    lift: float
    lo: float
    hi: float


class TokenShare(NamedTuple):
    """A token and the share of its occurrences that choose the expert."""

    text: str
    share: float
    n_tokens: int


class ExpertView(NamedTuple):
    """One expert with everything that the page tells of it."""

    id: str
    label: str
    load: float
    domains: list[DomainLift]
    tokens: list[TokenShare]
    links: list[Link]
    writes: list[Written]


class Routing(NamedTuple):
    """The routing tables that experts are described from."""

    load: Table
    domains: Table
    vocabulary: Table

    def of(self, expert: ExpertId) -> "Routing":
        """Return the rows of one expert."""
        return Routing(*(_rows_of(expert, table) for table in self))


def read_routing(tables: RunTables) -> Routing:
    """Return the routing tables of the run."""
    return Routing(
        tables.read("routing/load.parquet", *LOAD_COLUMNS),
        tables.read("routing/domains.parquet", *DOMAIN_COLUMNS),
        tables.read("routing/vocabulary.parquet", *VOCABULARY_COLUMNS),
    )


def view_expert(
    tables: RunTables,
    expert: ExpertId,
    *,
    routing: Routing,
    links: list[Link],
    writes: list[Written],
) -> ExpertView:
    """Return the view of an expert; its label is that of the map which holds its surest link."""
    mine = routing.of(expert)
    path = tables.at("labels", links[0].feature[0], "experts.parquet")
    rows = read_columns(path, "layer", "expert", "label", "is_shared")
    rows = select(rows, ~rows["is_shared"].astype(bool))
    labels = _rows_of(expert, rows)["label"].tolist()
    return ExpertView(
        id=str(expert),
        label=labels[0] if labels else "not labelled",
        load=float(mine.load["load"][0]),
        domains=top_domains(mine.domains),
        tokens=top_tokens(mine.vocabulary),
        links=links,
        writes=writes,
    )


def top_domains(table: Table) -> list[DomainLift]:
    """Return the domains that are clearly preferred, by the lower end of the interval."""
    overall = np.maximum(overall_share(table), 1e-12)
    low, high = table["share_lo"] / overall, table["share_hi"] / overall
    rows = [row for row in np.argsort(-low, kind="stable").tolist() if low[row] > 1]
    return [
        DomainLift(table["domain"][row], float(table["lift"][row]), low[row], high[row])
        for row in rows[:N_DOMAINS]
    ]


def top_tokens(table: Table) -> list[TokenShare]:
    """Return the tokens with the highest lift above 1, of equals the more frequent first."""
    order = np.lexsort((-table["n_tokens"], -table["lift"]))
    rows = [row for row in order.tolist() if table["lift"][row] > 1][:N_TOKENS]
    token, share, n_tokens = (table[name] for name in VOCABULARY_COLUMNS[2:5])
    return [TokenShare(visible(token[row]), float(share[row]), int(n_tokens[row])) for row in rows]


def _rows_of(expert: ExpertId, table: Table) -> Table:
    return select(table, (table["layer"] == expert.layer) & (table["expert"] == expert.expert))
