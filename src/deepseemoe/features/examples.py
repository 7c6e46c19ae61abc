"""Write density.parquet and examples.parquet of one dictionary.

T tokens, R contexts, W tokens of all contexts together.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from deepseemoe.config import FeaturesConfig
from deepseemoe.corpus.documents import domains_of
from deepseemoe.features.contexts import Contexts, bounds, choose_contexts, group_name, n_random
from deepseemoe.features.density import measure_density
from deepseemoe.features.schemas import DENSITY, EXAMPLES
from deepseemoe.features.text import FeatureText, IntArray
from deepseemoe.features.tokens import token_texts
from deepseemoe.runtime.seeds import generator
from deepseemoe.runtime.tables import digest, write_table

logger = logging.getLogger(__name__)


def collect_examples(
    config: FeaturesConfig,
    *,
    shards: Sequence[Path],
    documents: Path,
    tokenizer: Path,
    density: Path,
    examples: Path,
    seed: int,
) -> None:
    """Write how often features fire to `density`, and contexts of those that fire to `examples`.

    `shards` are consecutive parts of one text; `tokenizer` is a folder. Raises ValueError where the
    shards do not belong together, or not to `documents` and `tokenizer`.
    """
    text = FeatureText.read(shards)
    tokens = token_texts(tokenizer)
    _check_belongs(text, documents, tokenizer, n_tokens=len(tokens))
    manifest = {
        "config": digest(config.model_dump(mode="json")),
        "seed": seed,
        "n_tokens": text.n_tokens,
        "n_valid": int(text.is_valid.sum()),
        "d_dict": text.d_dict,
    }
    columns = measure_density(text)
    write_table(density, DENSITY, columns, manifest)
    contexts = choose_contexts(text, config, generator(seed, "examples"))
    manifest["n_random"] = n_random(config)
    write_table(examples, EXAMPLES, _columns(text, contexts, config, tokens), manifest)
    n_firing = int((columns["n_active"] > 0).sum())
    logger.info(
        "%d of %d features fire on %d valid tokens; kept %d contexts",
        *(n_firing, text.d_dict, manifest["n_valid"], len(contexts.places)),
    )


def _check_belongs(text: FeatureText, documents: Path, tokenizer: Path, *, n_tokens: int) -> None:
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
    text: FeatureText, contexts: Contexts, config: FeaturesConfig, tokens: Sequence[str]
) -> dict[str, Any]:
    """Return the columns of examples.parquet, lists as arrow arrays without a Python loop."""
    first, last = bounds(text, contexts.places, config)
    offsets = np.concatenate([[0], np.cumsum(last - first + 1)])
    places = _ranges(first, last)  # (W,)
    token_ids = text.token_ids[places]
    names = np.array([group_name(group, config) for group in range(config.n_quantiles + 2)])
    return {
        "feature": contexts.features,
        "group": pa.array(names).take(pa.array(contexts.groups)),
        "rank": contexts.ranks,
        "doc_id": text.doc_ids[contexts.places],
        "place": contexts.places,
        "peak": contexts.places - first,
        "tokens": _lists(offsets, pa.array(tokens, pa.string()).take(pa.array(token_ids))),
        "token_ids": _lists(offsets, pa.array(token_ids, pa.uint32())),
        "activations": _lists(offsets, pa.array(_activations(text, contexts, first, last))),
    }


def _activations(
    text: FeatureText, contexts: Contexts, first: IntArray, last: IntArray
) -> npt.NDArray[np.float32]:
    """Return (W,): the activation of each context's feature on each of its tokens."""
    start, stop = text.entries_between(contexts.features, first, last)
    entries = _ranges(start, stop - 1)
    lengths = last - first + 1
    shift = np.cumsum(lengths) - lengths - first  # from a place to its index among all contexts
    values = np.zeros(int(lengths.sum()), np.float32)
    values[text.runs.places[entries] + np.repeat(shift, stop - start)] = text.runs.values[entries]
    return values


def _ranges(first: IntArray, last: IntArray) -> IntArray:
    """Return first … last of each row, one row after the other; rows may be empty."""
    lengths = last - first + 1
    shift = first - (np.cumsum(lengths) - lengths)
    return np.arange(int(lengths.sum())) + np.repeat(shift, lengths)


def _lists(offsets: IntArray, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
