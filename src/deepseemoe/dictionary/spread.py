"""Weights to and from ranks, as DTensors on a mesh of all of them; `shards` says who owns what.

Imported where there are several ranks only: DTensor takes seconds to import.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from deepseemoe.dictionary import shards
from deepseemoe.dictionary.weights import Weights


def scatter(weights: Weights, shard: shards.Shard, device: str) -> Weights:
    """Return a rank's rows of weights that every rank has whole, on `device`."""
    mesh = init_device_mesh("cpu", (shard.n_ranks,))

    def mine(rows: Tensor) -> Tensor:
        # All ranks made the same numbers, so nothing is sent.
        return distribute_tensor(rows, mesh, [Shard(0)], src_data_rank=None).to_local()

    return weights.replaced(
        tensor.to(device, copy=True)
        if sizes is None
        else torch.cat([mine(rows) for rows in tensor.split(sizes)]).to(device)
        for tensor, sizes in zip(weights.tensors(), shard.segments(weights), strict=True)
    )


def gather(weights: Weights, shard: shards.Shard) -> Iterator[Tensor]:
    """Yield the whole of each tensor of a rank, as `weights.tensors()` does; all ranks call it.

    One is on the device at a time.
    """
    mesh = init_device_mesh(weights.encoder_bias.device.type, (shard.n_ranks,))
    for tensor, sizes in zip(weights.tensors(), shard.segments(weights), strict=True):
        if sizes is None:
            yield tensor
            continue
        pieces = tensor.split([len(shard.rows(size)) for size in sizes])
        yield torch.cat([_full(p, n, mesh) for p, n in zip(pieces, sizes, strict=True)])


def _full(local: Tensor, n_rows: int, mesh: DeviceMesh) -> Tensor:
    """Return all rows of a tensor whose rows are spread over a mesh."""
    shape = torch.Size([n_rows, *local.shape[1:]])
    stride = torch.empty(shape, device="meta").stride()
    whole = DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)
    return whole.full_tensor()
