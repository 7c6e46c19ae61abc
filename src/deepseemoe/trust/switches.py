"""The run's own nulls: its stores with one tie cut, through the code that made its maps.

`documents`: the features of each document are joined with the routing of another one. Nothing may
be found.
`layers`: features are joined with the routing of another layer. Layers resemble each other, so
pairs are found; but what the weights of the layer say must not agree with them.
`weights`: features are joined with the routing of the model with random weights, on the same text.
Its routers have causes too, tokens above all: what is found here needs no training.

Axes: T tokens, D documents, F features, R rows of a map.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config import ExpertsConfig
from deepseemoe.experts.counts import count_halves
from deepseemoe.experts.discovery import SURE
from deepseemoe.experts.documents import Documents, ShardSource
from deepseemoe.experts.join import Join, Routing, join
from deepseemoe.experts.statistics import clustered_log_odds
from deepseemoe.experts.support import count_firings, supported_features
from deepseemoe.runtime.seeds import generator
from deepseemoe.trust.claims import AGREEMENT
from deepseemoe.trust.null_rates import Rate, null_rates
from deepseemoe.trust.reading import rows_of_join


class Source(NamedTuple):
    """What the map of one dictionary and window was made of."""

    features: Sequence[ShardSource]
    stores: Sequence[ActivationStore]
    layers: Sequence[int]
    n_experts: int

    def joined(self, layers: Sequence[int] | None = None) -> Join:
        """Return features and routing, of the map's own layers or others, one for each of them."""
        return join(
            self.features, self.stores, layers=layers or self.layers, n_experts=self.n_experts
        )


def cut_documents(
    source: Source, config: ExpertsConfig, *, draws: int, seed: int
) -> Iterator[tuple[int, Rate]]:
    """Yield what is found where documents read the routing of others, by draw."""
    joined = source.joined()
    for draw in range(draws):
        rows_T = other_documents(joined.text.documents, seed, draw)
        routing = Routing(
            joined.routing.experts_TLK[rows_T], joined.routing.weights_TLK[rows_T], source.n_experts
        )
        rows = rows_of_join(Join(joined.text, routing), config, source.layers, seed=seed)
        yield from ((draw, rate) for rate in null_rates(rows, confidence=config.confidence))


def other_documents(documents: Documents, seed: int, draw: int) -> np.ndarray:
    """Return, for each row, a row of a document drawn for its own, of any length.

    Rows of a document follow those of the other from its first on, again and again where it is
    shorter. The map's own permutation keeps lengths; a fixed one, as to the next document, would be
    no draw that its null could hold.
    """
    other_D = generator(seed, "cut documents", draw).permutation(documents.n_documents)
    document_T = np.repeat(np.arange(documents.n_documents), documents.lengths)
    offset_T = np.arange(document_T.size) - documents.starts[document_T]
    other_T = other_D[document_T]
    return documents.starts[other_T] + offset_T % documents.lengths[other_T]


def cut_layers(
    source: Source,
    config: ExpertsConfig,
    *,
    reads: Mapping[str, np.ndarray],
    all_layers: Sequence[int],
    draws: int,
) -> Iterator[tuple[int, Rate]]:
    """Yield how far weights agree with counts of another layer's routing, by draw.

    `all_layers` are those whose routing the stores hold, `reads` the map with its `w_map`.
    """
    for draw in range(min(draws, len(all_layers) - 1)):
        place = {layer: all_layers.index(layer) for layer in source.layers}
        others = [all_layers[(place[n] + draw + 1) % len(all_layers)] for n in source.layers]
        yield draw, agreement(log_odds(source.joined(others), config, source.layers), reads)


def log_odds(joined: Join, config: ExpertsConfig, layers: Sequence[int]) -> dict[str, np.ndarray]:
    """Return `lor` of all pairs of supported features: counts alone, with no permutations."""
    features = supported_features(config, count_firings(joined.text))
    sums = count_halves(joined, features).whole
    lor_FX = clustered_log_odds(sums, config.confidence)[0]
    feature, column = (grid.ravel() for grid in np.indices(lor_FX.shape))
    n_experts = joined.routing.n_experts
    return {
        "layer": np.array(layers)[column // n_experts],
        "expert": column % n_experts,
        "feature": features[feature],
        "lor": lor_FX.ravel(),
    }


def other_weights(
    source: Source, config: ExpertsConfig, *, reads: Mapping[str, np.ndarray], seed: int
) -> Iterator[tuple[int, Rate]]:
    """Yield what is found in the routing of other weights, which `source` has."""
    rows = rows_of_join(source.joined(), config, source.layers, seed=seed)
    yield 0, found(rows)
    yield 0, agreement(rows, reads)


def found(rows: Mapping[str, np.ndarray]) -> Rate:
    """Return which share of tested pairs is found, where no share is nominal."""
    n_pairs = rows["q"].size
    share = float((rows["q"] < SURE).mean()) if n_pairs else np.nan
    return Rate("q", np.nan, n_pairs, share)


def agreement(rows: Mapping[str, np.ndarray], reads: Mapping[str, np.ndarray]) -> Rate:
    """Return the rank correlation of `lor` in `rows` with `w_map` of the same pairs in `reads`."""
    pair, known = _pairs(rows), _pairs(reads)
    order = np.argsort(known)
    if not pair.size or not known.size:
        return Rate(AGREEMENT, 0.0, 0, np.nan)
    place = order[np.minimum(np.searchsorted(known[order], pair), known.size - 1)]
    w_map_R = np.where(known[place] == pair, reads["w_map"][place], np.nan)
    measured = ~np.isnan(w_map_R)
    if measured.sum() < 3:
        return Rate(AGREEMENT, 0.0, int(measured.sum()), np.nan)
    rho = stats.spearmanr(rows["lor"][measured], w_map_R[measured]).statistic
    return Rate(AGREEMENT, 0.0, int(measured.sum()), float(rho))


def _pairs(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return one number for each layer, expert and feature."""
    layer, expert, feature = (rows[n].astype(np.int64) for n in ("layer", "expert", "feature"))
    return (layer << 48) | (expert << 32) | feature
