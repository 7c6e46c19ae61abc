"""What each chosen expert of a token adds to the block's output.

Axes: T tokens, D d_model, K experts of a token.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Contributions = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""Takes an experts module, block inputs (T, D), ids and weights (T, K); returns (T, K, D)."""


def weigh_outputs(experts: nn.Module, x_TD: Tensor, ids_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """Return weight * expert(x), by the module itself on T * K rows with one expert each."""
    n_slots = ids_TK.shape[-1]
    rows = x_TD.repeat_interleave(n_slots, 0)  # (T * K, D)
    # `forward`, not a call: hooks of a recording must not see these
    out = experts.forward(rows, ids_TK.reshape(-1, 1), weights_TK.reshape(-1, 1))
    return out.unflatten(0, (-1, n_slots))


def weigh_inputs(experts: nn.Module, x_TD: Tensor, ids_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """Return expert(weight * x), expert by expert (Llama 4).

    Its module computes all experts on all tokens: E times the work, hence the formula here.
    """
    rows_TKD = (x_TD[:, None] * weights_TK[..., None]).to(x_TD.dtype)
    out_TKD = torch.empty_like(rows_TKD)
    for expert in ids_TK.unique():
        is_its_TK = ids_TK == expert
        gate, up = (rows_TKD[is_its_TK] @ experts.gate_up_proj[expert]).chunk(2, -1)
        out_TKD[is_its_TK] = (up * experts.act_fn(gate)) @ experts.down_proj[expert]
    return out_TKD
