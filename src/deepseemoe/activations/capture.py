"""Running the model over a shard of the corpus and storing what its sites and routers computed.

On a GPU the activations are copied to pinned memory while the model already computes the next
batch, and the host scatters the one before; so disk, host and GPU work at the same time.

Axis suffixes: S sequences, N sequence length.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepseemoe.activations.host import HostCopies, Rows
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
) -> None:
    """Write the activation store of the corpus shard at `tokens` to `store`, whole or not at all.

    It holds `sites` and the routing of every MoE layer. The same seed gives the same bytes, however
    large the batches are, as far as the model itself does. Raises ValueError where a site is none
    of the model's, or an activation is not finite; OSError where the disk is full.
    """
    text = read_shard(tokens)
    _check_length(model, text, tokens)
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
        progress = Progress(f"activations of {split}/{tokens.stem}", text.token_ids_SN.size)
        for rows in _batches(model, text, arrays, config.batch_sequences):
            writer.append(rows)
            progress.advance(len(rows["token_id"]))
    gib = text.token_ids_SN.size * sum(spec.row_bytes for spec in arrays) / 2**30
    logger.info("cached %d arrays of %s, %.2f GiB", len(arrays), tokens, gib)


def _check_length(model: MoeModel, text: TokenShard, tokens: Path) -> None:
    """Raise ValueError where sequences are longer than the model was made for."""
    length, limit = text.token_ids_SN.shape[1], getattr(model, "max_positions", None)
    if limit and length > limit:
        raise ValueError(
            f"{tokens}: sequences of {length} tokens, but the model was made for {limit}; lower "
            "corpus.sequence_length"
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


def _batches(
    model: MoeModel, text: TokenShard, arrays: Sequence[ArraySpec], n_sequences: int
) -> Iterator[Rows]:
    """Yield the rows of each batch in text order, one batch behind the model."""
    host = HostCopies(arrays)
    ready: Callable[[], Rows] | None = None
    for start in range(0, len(text.token_ids_SN), n_sequences):
        part = slice(start, start + n_sequences)
        recorded = _run(model, text, part, [spec.name for spec in arrays])
        if not start:
            _check_first(recorded, arrays, text.token_ids_SN[part].size)
        following = host.start(recorded, _token_rows(text, part))
        if ready:
            yield ready()
        ready = following
    if ready:
        yield ready()


@torch.inference_mode()
def _run(
    model: MoeModel, text: TokenShard, part: slice, names: Sequence[str]
) -> Mapping[str, Tensor]:
    """Return what the model records for some sequences."""
    batch = TokenBatch.from_arrays(text.token_ids_SN[part], text.positions_SN[part])
    with model.record(names) as recorded:
        model.hidden_states(batch)
    return recorded


def _token_rows(text: TokenShard, part: slice) -> Rows:
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
