"""The devices that a run asks for and a job computes on, looked at before anything is loaded."""

import os
from collections.abc import Iterator, Sequence

from deepseemoe.config.devices import DevicesConfig
from deepseemoe.runtime.gpus import Gpus


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
            f"devices: {', '.join(missing)} asked for, and torch sees {shown_gpus(n_seen)}; "
            f"{_advice(n_seen)}write {'fewer GPUs or ' * bool(n_seen)}cpu at `devices`"
        )


def _advice(n_seen: int) -> str:
    """Return what to look at where GPUs are there and torch sees none of them."""
    import torch

    if n_seen:
        return ""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA: install one that is, or "
    return "see whether `nvidia-smi` works, or "


def n_gpus() -> int:
    """Return how many GPUs torch sees."""
    import torch  # seconds, which jobs on CPUs need not wait for twice

    return torch.cuda.device_count()


def shown_gpus(n_seen: int) -> str:
    """Return how many GPUs there are, as words, and what may hide the others."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
    return counted_gpus(n_seen) + hidden


def counted_gpus(number: int) -> str:
    """Return a number of GPUs as words."""
    return "no GPU" if number == 0 else "1 GPU" if number == 1 else f"{number} GPUs"


def _gpu_number(name: str) -> int | None:
    kind, _, number = name.partition(":")
    return int(number or 0) if kind == "cuda" and (number or "0").isdigit() else None


def problem_of_gpus(devices: DevicesConfig, gpus: Gpus) -> str | None:
    """Return why a run may not begin on these GPUs; None where it may."""
    stages = _on_gpu(devices)
    if not stages or gpus.gpus or not devices.require_gpu:
        return None
    return (
        f"devices: {_named(stages)} a GPU, {gpus.why_none}, and devices.require_gpu is true; run "
        "where there is one, or write cpu"
    )


def problem_of_grant(devices: DevicesConfig, gpus: Gpus) -> str | None:
    """Return why jobs would refuse that run inside a job of SLURM; None where they would not."""
    stages = _on_gpu(devices)
    if not stages or gpus.gpus or not gpus.slurm_job:
        return None
    return f"devices: {_named(stages)} a GPU, and {gpus.why_none}; ask SLURM for one, or write cpu"


def remarks_on_gpus(devices: DevicesConfig, gpus: Gpus) -> Iterator[str]:
    """Yield in one line each what a run does otherwise than written, for lack of GPUs."""
    stages = _on_gpu(devices)
    n_here = len(gpus.gpus)
    if stages and not n_here:
        yield f"devices: {_named(stages)} a GPU, and {gpus.why_none}: computed on the CPU"
    elif (n_asked := _n_asked(devices, stages)) > n_here:
        yield (
            f"devices: {n_asked} GPUs are asked for, and {n_here} {'is' if n_here == 1 else 'are'} "
            f"here ({_ids(gpus)}), which stages share; each takes one job at a time"
        )


def _on_gpu(devices: DevicesConfig) -> list[str]:
    return [stage for stage in devices.stages if devices.on_gpu(stage)]


def _named(stages: Sequence[str]) -> str:
    return f"{', '.join(stages)} {'asks' if len(stages) == 1 else 'ask'} for"


def _n_asked(devices: DevicesConfig, stages: Sequence[str]) -> int:
    """Return how many GPUs it takes that no two names fall on one, and no job has too few."""
    pins = [pin for stage in stages for pin in devices.pins(stage) if pin is not None]
    return max([devices.n_gpus(stage) for stage in stages] + [pin + 1 for pin in pins], default=0)


def _ids(gpus: Gpus) -> str:
    return ", ".join(f"GPU {gpu.id}" for gpu in gpus.gpus)
