"""What NanoMoE's routers read: a token, its whole document, or its document so far.

Pooling is one product with a row-stochastic matrix that all layers share. It costs as much as
attention without softmax, and unlike differences of running sums it gives a packed document exactly
what the document gets alone.

`sequence` reproduces the sequence-level routing of Fan et al. 2024 (arXiv 2402.13089). It is NOT
causal: each token's experts depend on later tokens of its document, so a language-model loss under
it is too good by what the routing tells. `prefix` is its causal counterpart.

Axes: S sequences, N sequence length, D d_model.
"""

import torch
from torch import Tensor


def segments_of(positions_SN: Tensor) -> Tensor:
    """Return the number of each token's segment (S, N); one opens where positions do not go on."""
    opens_SN = torch.ones_like(positions_SN)
    opens_SN[:, 1:] = (positions_SN[:, 1:] != positions_SN[:, :-1] + 1).long()
    return opens_SN.cumsum(-1)


def pooling_matrix(routing: str, positions_SN: Tensor, is_token_SN: Tensor | None) -> Tensor | None:
    """Return (S, N, N) float32 weights that average what routers read; None where that is tokens.

    `is_token_SN` is 0 at padding, which no average includes.
    """
    if routing == "token":
        return None
    segments_SN = segments_of(positions_SN)
    reads_SNN = segments_SN[:, :, None] == segments_SN[:, None, :]
    if routing == "prefix":
        reads_SNN = reads_SNN.tril()
    if is_token_SN is not None:
        reads_SNN = reads_SNN & is_token_SN[:, None, :].bool()
    return reads_SNN / reads_SNN.sum(-1, keepdim=True).clamp(min=1)


def pool(hidden_SND: Tensor, pooling_SNN: Tensor | None) -> Tensor:
    """Return what the router reads, (S, N, D)."""
    return hidden_SND if pooling_SNN is None else pooling_SNN.to(hidden_SND.dtype) @ hidden_SND
