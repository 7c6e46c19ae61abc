"""Running the model over a shard of the corpus and storing what its sites and routers computed.

Activations stay where the model computes them until a window is full (`writer.py`), and nothing
here waits for a GPU; so disk, host and GPU work at the same time.

Axis suffixes: S sequences, N sequence length.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepseemoe.activations.layout import BFLOAT16, ArraySpec
from deepseemoe.activations.writer import open_writer
from deepseemoe.config.activations import ActivationsConfig
from deepseemoe.corpus.shards import TokenShard, read_shard
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.names import HOOK_POINTS, Site, layer_name
from deepseemoe.runtime.progress import Progress

logger = logging.getLogger(__name__)


def cache_activations(
    config: ActivationsConfig,
    *,
    model: MoeModel,
    tokens: Path,
    store: Path,
    sites: Sequence[str],
    split: str,
    shard: int | str,
    seed: int,
    manifest: Mapping[str, Any],
    progress: Progress | None = None,
) -> None:
    """Write the activation store of the corpus shard at `tokens` to `store`, whole or not at all.

    It holds `sites` and the routing of every MoE layer. The same seed gives the same bytes, however
    large the batches are, as far as the model itself does. `progress` is told of each batch; one of
    this shard alone is made where none is given. Raises ValueError where a site is none
    of the model's, or an activation is not finite; OSError where the disk is full.
    """
    text = read_shard(tokens)
    _check_text(model, text, tokens)
    arrays = stored_arrays(model, sites, router_logits=config.router_logits)
    with open_writer(
        store,
        arrays,
        n_tokens=text.token_ids_SN.size,
        config=config,
        seed=seed,
        split=split,
        shard=int(shard),
        manifest=manifest,
    ) as writer:
        if progress is None:
            progress = Progress(f"activations of {split}/{tokens.stem}", text.token_ids_SN.size)
        with model.record([spec.name for spec in arrays], stop=True) as recorded:
            for part in _forward(model, text, config.batch_sequences):
                n_tokens = text.token_ids_SN[part].size
                if not part.start:
                    _check_first(recorded, arrays, n_tokens)
                writer.append({**recorded, **_token_rows(text, part)})
                progress.advance(n_tokens)
    gib = text.token_ids_SN.size * sum(spec.row_bytes for spec in arrays) / 2**30
    logger.info("cached %d arrays of %s, %.2f GiB", len(arrays), tokens, gib)


def _check_text(model: MoeModel, text: TokenShard, tokens: Path) -> None:
    """Raise ValueError where sequences are too long for the model, or tokens none of its own."""
    length, limit = text.token_ids_SN.shape[1], model.max_positions
    if limit and length > limit:
        raise ValueError(
            f"{tokens}: sequences of {length} tokens, but the model was made for {limit}; lower "
            "corpus.sequence_length"
        )
    largest = int(text.token_ids_SN.max(initial=0))
    if largest >= model.vocab_size:
        raise ValueError(
            f"{tokens}: holds token {largest}, and the model knows 0 to {model.vocab_size - 1}; "
            "delete the tokenizer and the corpus of this run, which are of another model"
        )


def stored_arrays(
    model: MoeModel, sites: Sequence[str], *, router_logits: bool = False
) -> tuple[ArraySpec, ...]:
    """Return the arrays that a store of `sites` holds: those, and the routing of all MoE layers.

    Raises ValueError with all sites that are not activations of a layer of the model.
    """
    parsed = [Site.parse(site) for site in dict.fromkeys(sites)]
    odd = [str(s) for s in parsed if s.hook_point not in HOOK_POINTS or s.layer >= model.n_layers]
    if odd:
        raise ValueError(
            f"sites {', '.join(odd)}: expected hook points of layers 0 to {model.n_layers - 1}"
        )
    ids_dtype = np.min_scalar_type(model.n_experts - 1).name
    arrays = [ArraySpec(str(site), "uint16", model.d_model, BFLOAT16) for site in parsed]
    for layer in map(layer_name, model.moe_layers):
        arrays.append(ArraySpec(f"expert_ids/{layer}", ids_dtype, model.top_k))
        arrays.append(ArraySpec(f"expert_weights/{layer}", "float16", model.top_k))
        if router_logits:
            arrays.append(ArraySpec(f"router_logits/{layer}", "float32", model.n_experts))
    return tuple(arrays)


def _forward(model: MoeModel, text: TokenShard, n_sequences: int) -> Iterator[slice]:
    """Run the model over the text; yield the sequences of each batch once it is asked to compute.

    A GPU may still be at it: what follows is done in the model's stream.
    """
    for start in range(0, len(text.token_ids_SN), n_sequences):
        part = slice(start, start + n_sequences)
        with torch.inference_mode():
            model.hidden_states(
                TokenBatch.from_arrays(text.token_ids_SN[part], text.positions_SN[part])
            )
        yield part


def _token_rows(text: TokenShard, part: slice) -> dict[str, NDArray[np.uint32]]:
    return {
        "token_id": text.token_ids_SN[part].reshape(-1),
        "doc_id": text.doc_ids_SN[part].reshape(-1),
        "position": text.positions_SN[part].reshape(-1),
    }


def _check_first(
    recorded: Mapping[str, Tensor], arrays: Sequence[ArraySpec], n_tokens: int
) -> None:
    """Raise ValueError with everything that the first batch lacks or has in another shape."""
    problems = []
    for spec in arrays:
        shape = tuple(recorded[spec.name].shape) if spec.name in recorded else "nothing"
        if shape != (n_tokens, *spec.row_shape):
            problems.append(f"{spec.name} is {shape}, expected {(n_tokens, *spec.row_shape)}")
    if problems:
        raise ValueError(f"the model's first batch does not fit: {'; '.join(problems)}")
