"""Write density.parquet, neighbours.parquet and examples.parquet of one dictionary.

The activations are streamed twice: once for sums and peaks, once to fill the contexts and to see
where the drawn ones are off. R contexts, W tokens of all contexts together.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from deepseemoe.config import FeaturesConfig
from deepseemoe.corpus.documents import domains_of
from deepseemoe.features.activity import Activity, Contexts, ranges
from deepseemoe.features.candidates import Occurrences, Sources
from deepseemoe.features.contexts import HALVES, group_names, n_random
from deepseemoe.features.halves import is_explaining
from deepseemoe.features.neighbours import Neighbours, nearest_features, neighbour_columns
from deepseemoe.features.schemas import DENSITY, EXAMPLES, NEIGHBOURS
from deepseemoe.features.stream import FeatureStream, Text
from deepseemoe.features.survey import densities, survey
from deepseemoe.features.text import IntArray
from deepseemoe.features.tokens import token_texts
from deepseemoe.runtime.seeds import seed_for
from deepseemoe.runtime.tables import TableWriter, digest, write_table

logger = logging.getLogger(__name__)


def collect_examples(
    config: FeaturesConfig,
    *,
    shards: Sequence[Path],
    weights: Path,
    documents: Path,
    tokenizer: Path,
    density: Path,
    neighbours: Path,
    examples: Path,
    seed: int,
) -> None:
    """Write how often features fire, which lie near each other, and contexts of those that fire.

    `shards` are consecutive parts of one text, `weights` the dictionary's weights.safetensors;
    `tokenizer` is a folder; `density`, `neighbours` and `examples` are written. Raises ValueError
    where the shards are damaged or do not belong together, or not to the other files.
    """
    stream, tokens = FeatureStream(shards), token_texts(tokenizer)
    text = stream.text
    _check_belongs(text, documents, tokenizer, n_tokens=len(tokens))
    manifest = {
        "config": digest(config.model_dump(mode="json")),
        "seed": seed,
        "n_tokens": text.n_tokens,
        "n_valid": int(text.is_valid.sum()),
        "d_dict": stream.d_dict,
    }
    nearest = nearest_features(weights, d_dict=stream.d_dict, seed=seed)
    write_table(neighbours, NEIGHBOURS, neighbour_columns(nearest), manifest)
    activity, columns = find_contexts(stream, nearest, config, seed)
    write_table(density, DENSITY, columns, manifest)
    manifest["n_random"] = n_random(config)
    with TableWriter(examples, EXAMPLES, manifest) as table:
        for contexts in activity.contexts():
            table.write(_columns(text, contexts, config, tokens))
    n_firing = int((columns["n_active"] > 0).sum())
    logger.info(
        "%d of %d features fire on %d valid tokens; kept %d contexts of %d",
        *(n_firing, stream.d_dict, manifest["n_valid"], table.n_rows, activity.n_drawn),
    )


def find_contexts(
    stream: FeatureStream, nearest: Neighbours, config: FeaturesConfig, seed: int
) -> tuple[Activity, dict[str, Any]]:
    """Return contexts of all features, filled, and the columns of density.parquet."""
    text = stream.text
    found = survey(stream, config, seed_for(seed, "examples"))
    sources = Sources(text, found, Occurrences.of(text), nearest.features, config)
    activity, columns = Activity(sources), densities(found, int(text.is_valid.sum()))
    del sources, found  # the reservoirs are large
    activity.look_up(stream)
    return activity, columns


def _check_belongs(text: Text, documents: Path, tokenizer: Path, *, n_tokens: int) -> None:
    """Raise ValueError where the text has documents or tokens that the other files do not know."""
    n_documents = len(domains_of(documents)[1])
    highest = int(text.doc_ids.max(initial=0))
    if highest >= n_documents:
        raise ValueError(
            f"{documents}: {n_documents} kept documents, but the feature shards have doc_id "
            f"{highest}; expected files of one run; run encode_features again"
        )
    highest = int(text.token_ids.max(initial=0))
    if highest >= n_tokens:
        raise ValueError(
            f"{tokenizer}: {n_tokens} tokens, but the feature shards have token {highest}; "
            "expected the tokenizer of the same run; run encode_features again"
        )


def _columns(
    text: Text, contexts: Contexts, config: FeaturesConfig, tokens: Sequence[str]
) -> dict[str, Any]:
    """Return the columns of examples.parquet, lists as arrow arrays without a Python loop."""
    rows = contexts.rows
    doc_ids = text.doc_ids[rows.places]
    assert (is_explaining(doc_ids) == (rows.halves == 0)).all(), "a document is in both halves"
    offsets = np.concatenate([[0], np.cumsum(contexts.lengths)])
    token_ids = text.token_ids[ranges(contexts.first, contexts.lengths)]
    return {
        "feature": rows.features,
        "half": pa.array(HALVES).take(pa.array(rows.halves)),
        "group": pa.array(group_names(config)).take(pa.array(rows.groups)),
        "rank": contexts.ranks,
        "doc_id": doc_ids,
        "place": rows.places,
        "peak": rows.places - contexts.first,
        "tokens": _lists(offsets, _read(tokens, token_ids)),
        "token_ids": _lists(offsets, pa.array(token_ids, pa.uint32())),
        "activations": _lists(offsets, pa.array(contexts.z_W)),
    }


def _read(tokens: Sequence[str], token_ids: IntArray) -> pa.Array:
    return pa.array(tokens, pa.string()).take(pa.array(token_ids))


def _lists(offsets: IntArray, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
