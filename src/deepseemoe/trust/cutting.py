"""The run's half of the certificate: what its maps and tables find where ties are cut."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config import ExpertsConfig, RoutingConfig, TrustConfig
from deepseemoe.features.store import FeatureShard
from deepseemoe.routing.text import count_experts, routing_layers
from deepseemoe.runtime.files import read_json
from deepseemoe.runtime.tables import digest, read_table, write_table
from deepseemoe.trust.labels import cut_labels
from deepseemoe.trust.null_rates import Rate
from deepseemoe.trust.schemas import NULLS
from deepseemoe.trust.switches import (
    Source,
    agreement,
    cut_documents,
    cut_layers,
    found,
    other_weights,
)

READ = ("layer", "expert", "feature", "lor", "w_map", "q")


def cut_ties(
    config: TrustConfig,
    experts: ExpertsConfig,
    *,
    reads: Path,
    summary: Path,
    feature_shards: Sequence[Path],
    stores: Sequence[Path],
    random_stores: Sequence[Path],
    nulls: Path,
    dictionary: str,
    window: str,
    seed: int,
) -> None:
    """Write what is found where features of one dictionary meet routing that is not theirs.

    `reads` and `summary` are the map as it is. `random_stores` hold the routing of the model with
    random weights on the first of the same shards; they are needed for the switch `weights` alone.
    Raises ValueError where files do not belong together.
    """
    opened = [ActivationStore(path) for path in stores]
    features = [partial(FeatureShard.open, path) for path in feature_shards]
    layers = read_json(summary)["layers"]
    source = Source(features, opened, layers, count_experts(opened))
    table = read_table(reads, READ)
    rows = {name: table[name].to_numpy() for name in READ}
    own = [(0, rate) for rate in (found(rows), agreement(rows, rows))]
    told: list[tuple[str, int, Rate]] = [("none", *one) for one in own]
    if "documents" in config.switches:
        cut = cut_documents(source, experts, draws=config.draws, seed=seed)
        told += [("documents", *one) for one in cut]
    if "layers" in config.switches:
        cut = cut_layers(
            source,
            experts,
            reads=rows,
            all_layers=routing_layers(opened),
            draws=config.draws,
        )
        told += [("layers", *one) for one in cut]
    if "weights" in config.switches:
        other = [ActivationStore(path) for path in random_stores]
        source = source._replace(features=features[: len(other)], stores=other)
        cut = other_weights(source, experts, reads=rows, seed=seed)
        told += [("weights", *one) for one in cut]
    manifest = _manifest("cut_ties", seed, config, experts)
    write_table(nulls, NULLS, [*_rows(told, dictionary, window)], manifest)


def shuffle_labels(
    config: TrustConfig,
    routing: RoutingConfig,
    *,
    stores: Sequence[Path],
    documents: Path,
    tokenizer: Path,
    nulls: Path,
    seed: int,
) -> None:
    """Write how many experts have a domain, with the labels of documents as they are and shuffled.

    Writes no row where the switch `labels` is off.
    """
    told: Iterable[tuple[str, int, Rate]] = ()
    if "labels" in config.switches:
        told = cut_labels(
            routing,
            stores=[ActivationStore(path) for path in stores],
            documents=documents,
            tokenizer=tokenizer,
            draws=config.draws,
            seed=seed,
        )
    manifest = _manifest("shuffle_labels", seed, config, routing)
    write_table(nulls, NULLS, [*_rows(told, "", "")], manifest)


def _rows(
    told: Iterable[tuple[str, int, Rate]], dictionary: str, window: str
) -> Iterator[dict[str, Any]]:
    for null, draw, rate in told:
        common = {"source": "run", "null": null, "dictionary": dictionary, "window": window}
        yield common | {"seed": draw} | rate._asdict()


def _manifest(rule: str, seed: int, *configs: Any) -> dict[str, Any]:
    return {
        "rule": rule,
        "seed": seed,
        "config": digest([one.model_dump(mode="json") for one in configs]),
    }
