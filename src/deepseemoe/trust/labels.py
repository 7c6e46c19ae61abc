"""The table of domains with the labels of documents shuffled: who has a domain by chance alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config import RoutingConfig
from deepseemoe.routing.tables import domain_rows
from deepseemoe.routing.tally import Tally, tally
from deepseemoe.routing.text import Routing, Text, read_text
from deepseemoe.runtime.seeds import generator
from deepseemoe.trust.null_rates import Rate

NOMINAL = 0.05
"""Intervals of domain shares are of 95 %."""


def cut_labels(
    config: RoutingConfig,
    *,
    stores: Sequence[ActivationStore],
    documents: Path,
    tokenizer: Path,
    draws: int,
    seed: int,
) -> Iterator[tuple[str, int, Rate]]:
    """Yield the share of (layer, expert, domain) whose interval misses the expert's overall share.

    As `("none", 0, rate)` for the labels as they are, and `("labels", draw, rate)` for shuffled
    ones. Each domain keeps its number of documents.
    """
    routing = Routing(stores)
    text = read_text(config, stores, documents, tokenizer, seed=seed)
    counts = {layer: tally(text, layer, n_experts=routing.n_experts) for layer in routing.layers}
    yield "none", 0, domain_misses(counts, text, nominal=np.nan)
    for draw in range(draws):
        shuffled_D = generator(seed, "shuffle labels", draw).permutation(text.domain_D)
        shuffled = text._replace(domain_D=shuffled_D)
        yield "labels", draw, domain_misses(counts, shuffled, nominal=NOMINAL)


def domain_misses(counts: dict[int, Tally], text: Text, *, nominal: float) -> Rate:
    """Return how many intervals of a domain's share miss the share over all tokens."""
    missed = []
    for layer, tallied in counts.items():
        rows = domain_rows(layer, tallied, text)
        overall = (tallied.counts_DE.sum(0) / text.n_tokens)[rows["expert"]]
        is_measured = ~np.isnan(rows["share_lo"]) & (overall > 0)
        is_missed = (rows["share_lo"] > overall) | (rows["share_hi"] < overall)
        missed.append(is_missed[is_measured])
    all_missed = np.concatenate(missed)
    rate = float(all_missed.mean()) if all_missed.size else np.nan
    return Rate("domain interval", nominal, all_missed.size, rate)
