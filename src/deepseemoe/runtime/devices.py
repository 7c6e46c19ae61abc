"""The devices that a job computes on, looked at before anything is loaded."""

import os
from collections.abc import Sequence


def check_devices(names: Sequence[str]) -> None:
    """Raise ValueError unless `names` are `cpu` alone, or GPUs that torch sees, as cuda:0."""
    if not names:
        raise ValueError("devices: none is named; name cpu, or GPUs as cuda:0")
    if set(names) == {"cpu"}:
        return
    odd = [name for name in names if _gpu_number(name) is None]
    if odd:
        raise ValueError(f"devices: {', '.join(odd)} cannot be used; name cpu alone, or cuda:0 …")
    n_seen = n_gpus()
    missing = [name for name in names if _gpu_number(name) >= n_seen]
    if missing:
        raise ValueError(
            f"devices: {', '.join(missing)} asked for, and torch sees {shown_gpus(n_seen)}; write "
            f"{'fewer GPUs or ' * bool(n_seen)}cpu at `devices`"
        )


def n_gpus() -> int:
    """Return how many GPUs torch sees."""
    import torch  # seconds, which jobs on CPUs need not wait for twice

    return torch.cuda.device_count()


def shown_gpus(n_seen: int) -> str:
    """Return how many GPUs there are, as words, and what may hide the others."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
    return ("no GPU" if n_seen == 0 else "1 GPU" if n_seen == 1 else f"{n_seen} GPUs") + hidden


def _gpu_number(name: str) -> int | None:
    kind, _, number = name.partition(":")
    return int(number or 0) if kind == "cuda" and (number or "0").isdigit() else None
