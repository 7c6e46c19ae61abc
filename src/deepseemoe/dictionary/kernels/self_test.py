"""Whether the kernels give, on this GPU, what plain PyTorch gives: asked once, before any is used.

A kernel is compiled for the GPU that is there, by the Triton that is there; what was right on one
pair may be wrong on another. Small random inputs, odd sizes, empty groups.
"""

import logging

import torch
from torch import Tensor
from torch.optim.adam import adam

from deepseemoe.dictionary.kernels.above import above
from deepseemoe.dictionary.kernels.dot_products import dot_products
from deepseemoe.dictionary.kernels.rows_adam import rows_adam
from deepseemoe.dictionary.kernels.weighted_sums import weighted_sums

logger = logging.getLogger(__name__)

N_GROUPS, N_ROWS, WIDTH, MOST = 37, 23, 171, 9
TOLERANCE = 1e-4


def agrees(device: torch.device) -> bool:
    """Return whether all kernels agree with PyTorch on `device`; log where they do not."""
    rng = torch.Generator().manual_seed(0)
    counts = torch.randint(0, MOST, (N_GROUPS,), generator=rng)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    n_entries = int(offsets[-1])
    given = {
        "offsets": offsets,
        "groups": torch.repeat_interleave(counts),
        "rows": torch.randint(0, N_ROWS, (n_entries,), generator=rng),
        "values": torch.randn(n_entries, generator=rng),
        "table": torch.randn(N_ROWS, WIDTH, generator=rng),
        "left": torch.randn(N_GROUPS, WIDTH, generator=rng),
    }
    given = {name: tensor.to(device) for name, tensor in given.items()}
    try:
        wrong = [name for name, check in CHECKS.items() if not check(given)]
    except Exception as error:  # whatever a compiler or a driver raises
        logger.warning("kernels are not used, %s: %s", type(error).__name__, error)
        return False
    if wrong:
        logger.warning("kernels are not used: wrong results of %s on %s", ", ".join(wrong), device)
    return not wrong


def _close(mine: Tensor, expected: Tensor) -> bool:
    return mine.shape == expected.shape and torch.allclose(mine, expected, TOLERANCE, TOLERANCE)


def _sums(given: dict[str, Tensor]) -> Tensor:
    """Return what `weighted_sums` is to return."""
    terms = given["table"][given["rows"]] * given["values"][:, None]
    return torch.zeros_like(given["left"]).index_add_(0, given["groups"], terms)


def _weighted_sums(given: dict[str, Tensor]) -> bool:
    found = weighted_sums(given["table"], given["rows"], given["offsets"], given["values"])
    return _close(found, _sums(given))


def _dot_products(given: dict[str, Tensor]) -> bool:
    left, right = given["left"], given["table"]
    found = dot_products(left, right, given["offsets"], given["rows"])
    return _close(found, (left[given["groups"]] * right[given["rows"]]).sum(1))


def _above(given: dict[str, Tensor]) -> bool:
    product, floor = given["left"].bfloat16(), given["table"][0].abs().bfloat16()
    tokens, features = torch.nonzero(product > floor, as_tuple=True)
    found = above(product, floor)
    expected = (tokens, features, product[tokens, features])
    return all(torch.equal(mine, other) for mine, other in zip(found, expected, strict=True))


def _rows_adam(given: dict[str, Tensor]) -> bool:
    """Return whether the first step of Adam with a rate of 0.1, halved gradients, is the same."""
    start, mine, other = given["left"], *([given["left"].clone()] for _ in range(2))
    moments = [torch.zeros_like(start) for _ in range(4)]
    constants = torch.tensor([2.0, 0.9, 0.999, 1e-8, 0.1 / (1 - 0.9), (1 - 0.999) ** 0.5])
    rows_adam(
        mine[0],
        *moments[:2],
        table_NW=given["table"],
        tokens=given["rows"],
        offsets=given["offsets"],
        values=given["values"],
        constants=constants.to(start.device),
        extra_AW=None,
        extra_rows=None,
    )
    options = {"amsgrad": False, "beta1": 0.9, "beta2": 0.999, "lr": 0.1, "weight_decay": 0.0}
    steps = [torch.zeros((), device=start.device)]
    halved = [_sums(given) / 2]
    adam(other, halved, [moments[2]], [moments[3]], [], steps, eps=1e-8, maximize=False, **options)
    return _close(mine[0], other[0]) and _close(moments[0], moments[2])


CHECKS = {
    "weighted_sums": _weighted_sums,
    "dot_products": _dot_products,
    "above": _above,
    "rows_adam": _rows_adam,
}
