"""Tables of what experts are for: domains in bits, how domains differ, and what a task needs.

Axes: D documents, C domains, E experts, B bootstrap draws (the first is the data).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config import RoutingConfig
from deepseemoe.routing.bootstrap import interval_of
from deepseemoe.routing.divergence import divergences_of
from deepseemoe.routing.information import Corrected
from deepseemoe.routing.relevance import scores, select
from deepseemoe.routing.schemas import DIVERGENCE, RELEVANCE, SPECIALISATION
from deepseemoe.routing.specialisation import ByDomain, n_arrangements, specialisation_of
from deepseemoe.routing.tables import Rows
from deepseemoe.routing.tabulate import manifest_of, write_rows
from deepseemoe.routing.tally import Tally, tally
from deepseemoe.routing.text import Routing, Text, read_text
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.tables import Columns

TABLES: Mapping[str, Columns] = {
    "specialisation": SPECIALISATION,
    "divergence": DIVERGENCE,
    "relevance": RELEVANCE,
}


def measure_specialisation(
    config: RoutingConfig,
    *,
    stores: Sequence[Path],
    documents: Path,
    tokenizer: Path,
    tables: Mapping[str, Path],
    seed: int,
) -> None:
    """Write the tables of what experts are for, over the valid tokens of some activation stores.

    `tables` says where each of TABLES goes. Raises ValueError as `tabulate_routing` does.
    """
    routing = Routing([ActivationStore(path) for path in stores])
    text = read_text(config, routing.stores, documents, tokenizer, seed=seed)
    parts: dict[str, list[Rows]] = {name: [] for name in TABLES}
    progress = Progress("measure_specialisation", len(routing.layers), unit="layers")
    for layer in routing.layers:
        counts = tally(text, layer, n_experts=routing.n_experts)
        parts["specialisation"].append(specialisation_rows(config, layer, counts, text, seed))
        parts["divergence"].append(divergence_rows(config, layer, counts, text, seed))
        parts["relevance"].append(relevance_rows(config, layer, counts, text, top_k=routing.top_k))
        progress.advance(1)
    manifest = manifest_of("measure_specialisation", config, routing, text, seed)
    for name, columns in TABLES.items():
        write_rows(tables[name], columns, parts[name], manifest)


def specialisation_rows(
    config: RoutingConfig, layer: int, tally: Tally, text: Text, seed: int
) -> Rows:
    """Return how many bits the experts of a layer tell of the domain."""
    by_domain = text.by_domain(tally.counts_DE)
    found = specialisation_of(by_domain, n_permutations=config.n_permutations, seed=seed)
    rows = {
        "layer": layer,
        "n_domains": np.unique(text.domain_D).size,
        "n_documents": text.domain_D.size,
        **_corrected_columns(found.information),
        "share_of_entropy": found.share,
        "reason": _reason(text.domain_D, found.information),
    }
    return {name: np.array([value]) for name, value in rows.items()}


def divergence_rows(config: RoutingConfig, layer: int, tally: Tally, text: Text, seed: int) -> Rows:
    """Return how differently each pair of domains uses the experts of a layer."""
    by_domain = text.by_domain(tally.counts_DE)
    found = divergences_of(by_domain, n_permutations=config.n_permutations, seed=seed)
    names, n_documents_C = np.array(text.domains, dtype=object), _documents_of(by_domain)
    pairs = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    reasons = []
    for place, (a, b) in enumerate(pairs):
        one = Corrected(*(np.asarray(column)[place] for column in found.divergence))
        here = text.domain_D[(text.domain_D == a) | (text.domain_D == b)]
        reasons.append(_reason(here, one))
    return {
        "layer": np.full(len(pairs), layer),
        "domain_a": names[found.first],
        "domain_b": names[found.second],
        "n_documents_a": n_documents_C[found.first],
        "n_documents_b": n_documents_C[found.second],
        **_corrected_columns(found.divergence),
        "reason": np.array(reasons, dtype=object),
    }


def relevance_rows(
    config: RoutingConfig, layer: int, tally: Tally, text: Text, *, top_k: int
) -> Rows:
    """Return ESFT's scores of each expert of a layer for each domain, and which it chooses."""
    found = text.by_domain(tally.counts_DE / top_k), text.by_domain(tally.weights_DE)
    tokens_CB = found[0].tokens()
    parts = []
    for domain in np.flatnonzero(tokens_CB[:, 0] > 0):
        sums = [one.sums()[domain] for one in found]
        is_drawn = tokens_CB[domain] > 0
        draws = [one[is_drawn] / tokens_CB[domain, is_drawn, None] for one in sums]
        token_E, gate_E = scores(sums[0][0], sums[1][0])
        n_experts = token_E.size
        rows = {
            "layer": np.full(n_experts, layer),
            "domain": np.full(n_experts, text.domains[domain], dtype=object),
            "expert": np.arange(n_experts),
            "n_tokens": np.full(n_experts, tokens_CB[domain, 0], np.int64),
        }
        has_interval = (text.domain_D == domain).sum() > 1
        for name, draw_BE in zip(("token", "gate"), draws, strict=True):
            low, high = interval_of(draw_BE if has_interval else draw_BE[:1])
            rows |= {f"{name}_score": draw_BE[0], f"{name}_lo": low, f"{name}_hi": high}
        choices = (("token", token_E, config.token_top_p), ("gate", gate_E, config.gate_top_p))
        for name, score_E, top_p in choices:
            rows[f"by_{name}"] = np.isin(np.arange(n_experts), select(score_E, top_p))
        parts.append(rows)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _corrected_columns(found: Corrected) -> Rows:
    return {
        "bits": found.raw,
        "chance_bits": found.null,
        "bits_above_chance": found.value,
        "bits_above_chance_lo": found.low,
        "bits_above_chance_hi": found.high,
        "p": found.p,
    }


def _documents_of(found: ByDomain) -> np.ndarray:
    return np.bincount(found.domain_D, minlength=found.n_domains)


def _reason(domain_D: np.ndarray, found: Corrected) -> str:
    """Return why a measure has no chance beside it; empty where it has."""
    if not np.isnan(found.p):
        return ""
    n_domains = np.unique(domain_D).size
    if n_domains < 2:
        return "documents of one domain alone"
    return f"{domain_D.size} documents can be permuted in {n_arrangements(domain_D):.0f} ways only"
