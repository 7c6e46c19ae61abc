"""Scores of everything that routing is predicted from, for the routers of one dictionary."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config import PredictionConfig
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.experts.join import join
from deepseemoe.features.store import FeatureShard
from deepseemoe.names import Window, layer_name
from deepseemoe.prediction.inputs import DictionaryInputs, encode_random, read_activations
from deepseemoe.prediction.measures import Draws
from deepseemoe.prediction.sample import CHOOSE, FIT, TEST, Drawn, Sample, draw
from deepseemoe.prediction.schemas import SCORES
from deepseemoe.prediction.scoring import BASE, BIGRAM, UNIGRAM, Router
from deepseemoe.prediction.table import blank, rows_of
from deepseemoe.routing.text import count_experts
from deepseemoe.runtime.tables import digest, write_table

logger = logging.getLogger(__name__)


def predict_routing(
    config: PredictionConfig,
    *,
    dictionary: Path,
    feature_shards: Sequence[Path],
    stores: Sequence[Path],
    random_stores: Sequence[Path] = (),
    scores: Path,
    device: str,
    seed: int,
) -> None:
    """Write how well the routers that a dictionary's features may call are predicted.

    `stores` are the test split's activation stores that `feature_shards` were encoded from, in
    order; `random_stores` those of the model with random weights over the same text. Raises
    ValueError where files do not belong together, or where no router reads the dictionary's layers.
    """
    learned = Dictionary.load(dictionary)
    opened = [ActivationStore(path) for path in stores]
    layers = router_layers(learned.kind, learned.window, opened[0].names)
    sources = [partial(FeatureShard.open, path) for path in feature_shards]
    joined = join(sources, opened, layers=layers, n_experts=count_experts(opened))
    if joined.text.d_dict != learned.d_dict:
        raise ValueError(
            f"{feature_shards[0]}: {joined.text.d_dict} features, but {dictionary} has "
            f"{learned.d_dict}; encode the features with this dictionary (encode_features)"
        )
    drawn = draw(joined, sources, n_tokens=config.n_tokens, seed=seed)
    if reason := too_few(drawn.sample, config.min_documents):
        logger.warning("%s: %s", scores, reason)
        names = (BASE, UNIGRAM, BIGRAM, "features")
        rows = [blank(layer, name, reason) for layer in layers for name in names]
    else:
        random = [ActivationStore(path) for path in random_stores]
        inputs = _inputs(learned, opened, random, drawn, seed=seed, device=device)
        rows = list(score_routers(config, inputs, layers, seed=seed))
    about = {
        "rule": "predict_routing",
        "config": digest(config.model_dump(mode="json")),
        "seed": seed,
        "dictionary": {"kind": learned.kind, "window": str(learned.window)},
        **_sizes(drawn.sample),
    }
    write_table(scores, SCORES, rows, about)


def router_layers(kind: str, window: Window, names: Sequence[str]) -> tuple[int, ...]:
    """Return the layers whose routers may call a dictionary's features, of those stored.

    As in the map of reads: a+1 .. b+1 for a crosscoder on a..b, a..b for a transcoder.
    """
    shift = 1 if kind == "crosscoder" else 0
    wanted = [n + shift for n in window.layers]
    layers = tuple(n for n in wanted if f"expert_ids/{layer_name(n)}" in names)
    if not layers:
        raise ValueError(
            f"{kind} on {window}: the stores hold no routing of {layer_name(wanted[0])} to "
            f"{layer_name(wanted[-1])}; choose a window whose routers were cached"
        )
    return layers


def score_routers(
    config: PredictionConfig, inputs: DictionaryInputs, layers: Sequence[int], *, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield the rows of each router; `layers` are those of the sample's routing, in its order."""
    n_tested = int((inputs.sample.part_D == TEST).sum())
    draws = Draws.of(n_tested, n_draws=config.n_bootstrap, confidence=config.confidence, seed=seed)
    for place, layer in enumerate(layers):
        router = Router(
            inputs.sample, place, penalties=config.penalties, device=inputs.device, seed=seed
        )
        predictions = router.predictions(inputs.of(layer))
        rows = [*rows_of(layer, router, predictions, draws, sees_later=inputs.sees_later(layer))]
        for row in (row for row in rows if row["expert"] is None and row["f1"] is not None):
            told = (layer_name(layer), row["predictor"], row["f1"], row["bits"], row["bits_base"])
            logger.info("%s from %s: macro-F1 %.3f, %.4f of %.4f bits a decision", *told)
        yield from rows


def too_few(sample: Sample, least: int) -> str:
    """Return why a sample cannot be split, '' where it can."""
    if sample.n_documents >= least:
        return ""
    return (
        f"{sample.n_documents} documents to fit, choose and test on; expected {least} or more: "
        "raise prediction.n_tokens or corpus.n_tokens.test"
    )


def _inputs(
    learned: Dictionary,
    stores: Sequence[ActivationStore],
    random_stores: Sequence[ActivationStore],
    drawn: Drawn,
    *,
    seed: int,
    device: str,
) -> DictionaryInputs:
    acts_TLD = read_activations(stores, drawn, learned.read_names)
    others = {"random": encode_random(learned, acts_TLD, seed=seed, device=device)}
    if random_stores:
        reading = Normalisation.of(random_stores, learned.read_names)
        other_TLD = read_activations(random_stores, drawn, learned.read_names)
        made = encode_random(replace(learned, reading=reading), other_TLD, seed=seed, device=device)
        others["random-model"] = made
    return DictionaryInputs(learned, drawn.sample, acts_TLD, others, device)


def _sizes(sample: Sample) -> dict[str, Any]:
    """Return how many documents and tokens each part has."""
    tokens = np.bincount(sample.part_D[sample.documents_T], minlength=3).tolist()
    documents = np.bincount(sample.part_D, minlength=3).tolist()
    names = {"fit": FIT, "choose": CHOOSE, "test": TEST}
    return {
        "n_tokens": {name: tokens[part] for name, part in names.items()},
        "n_documents": {name: documents[part] for name, part in names.items()},
    }
