"""The tables of domains with the labels of documents shuffled: which experts then have a domain?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config import RoutingConfig
from deepseemoe.routing.tables import INTERVAL, domain_rows
from deepseemoe.routing.tabulate import count_experts, read_text, routing_layers
from deepseemoe.routing.tally import tally
from deepseemoe.runtime.seeds import generator
from deepseemoe.trust.null_rates import Rate

NOMINAL = 1 - (INTERVAL[1] - INTERVAL[0])


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
    ones. Labels move among the documents of the stores, so each domain keeps its documents' number.
    """
    yield "none", 0, _domains(config, stores, documents, tokenizer, seed, nominal=np.nan)
    table = pq.read_table(documents)
    for draw in range(draws):
        with TemporaryDirectory() as folder:
            shuffled = Path(folder) / "documents.parquet"
            pq.write_table(shuffle_labels(table, stores, seed=seed, draw=draw), shuffled)
            rate = _domains(config, stores, shuffled, tokenizer, seed, nominal=NOMINAL)
        yield "labels", draw, rate


def shuffle_labels(
    table: pa.Table, stores: Sequence[ActivationStore], *, seed: int, draw: int
) -> pa.Table:
    """Return the table of documents with the domains of those in the stores permuted."""
    held = np.unique(np.concatenate([store["doc_id"].whole() for store in stores]))
    doc_ids = table["doc_id"].to_numpy(zero_copy_only=False)
    place = np.flatnonzero(np.isin(doc_ids, held))
    domain = np.array(table["domain"].to_pylist(), dtype=object)
    domain[place] = domain[generator(seed, "shuffle labels", draw).permutation(place)]
    column = table.schema.get_field_index("domain")
    return table.set_column(column, table.schema.field(column), pa.array(domain, pa.string()))


def _domains(
    config: RoutingConfig,
    stores: Sequence[ActivationStore],
    documents: Path,
    tokenizer: Path,
    seed: int,
    *,
    nominal: float,
) -> Rate:
    text, shards = read_text(config, stores, documents, tokenizer, seed=seed)
    n_experts, misses = count_experts(stores), []
    for layer in routing_layers(stores):
        rows = domain_rows(layer, tally(shards, layer, text, n_experts=n_experts), text)
        with np.errstate(divide="ignore", invalid="ignore"):
            overall = rows["share"] / rows["lift"]
        is_tested = ~np.isnan(rows["share_lo"]) & np.isfinite(overall)
        miss = (rows["share_lo"] > overall) | (rows["share_hi"] < overall)
        misses.append(miss[is_tested])
    missed = np.concatenate(misses)
    rate = float(missed.mean()) if missed.size else np.nan
    return Rate("domain interval", nominal, missed.size, rate)
