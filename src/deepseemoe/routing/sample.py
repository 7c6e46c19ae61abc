"""Running the model on the first tokens of the test split, for what stores do not hold.

Axes: S sequences, N sequence length, T tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from deepseemoe.corpus.shards import TokenShard, read_shard
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.tokens import TokenBatch

BATCH_TOKENS = 4096


class Sample(NamedTuple):
    """The document of each token (T,), and what was recorded at each site (T, ...) in text order.

    Without the first token of each segment, as in the activation stores.
    """

    document_T: np.ndarray
    values: dict[str, np.ndarray]


def first_sequences(shards: Sequence[Path], n_tokens: int) -> TokenShard:
    """Return whole sequences from the front of a split with at least `n_tokens` tokens, or all."""
    parts, n_read = [], 0
    for path in shards:
        parts.append(read_shard(path))
        n_read += parts[-1].token_ids_SN.size
        if n_read >= n_tokens:
            break
    if not n_read:
        raise ValueError("no token shards of the test split, or empty ones; run pack_corpus")
    whole = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    n_sequences = -(-n_tokens // whole[0].shape[1])
    return TokenShard(*(array[:n_sequences] for array in whole))


@torch.inference_mode()
def run_sample(model: MoeModel, tokens: TokenShard, sites: Sequence[str]) -> Sample:
    """Return what the model does at `sites` on these sequences, activations as float32."""
    n_sequences, length = tokens.token_ids_SN.shape
    step = max(BATCH_TOKENS // length, 1)
    parts: dict[str, list[np.ndarray]] = {site: [] for site in sites}
    for start in range(0, n_sequences, step):
        some = slice(start, start + step)
        positions_SN = tokens.positions_SN[some]
        is_inside = torch.from_numpy(positions_SN.ravel() > 0)
        with model.record(sites, stop=True) as acts:
            model.hidden_states(TokenBatch.from_arrays(tokens.token_ids_SN[some], positions_SN))
        for site in sites:
            values = acts[site].cpu()[is_inside]
            parts[site].append(values.float().numpy() if values.is_floating_point()
                               else values.numpy())  # fmt: skip
    is_inside = tokens.positions_SN.ravel() > 0
    values = {site: np.concatenate(runs) for site, runs in parts.items()}
    return Sample(tokens.doc_ids_SN.ravel()[is_inside], values)
