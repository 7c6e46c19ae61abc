"""Which GPUs this process may use, found without torch: to ask torch is to open them.

In this order: what SLURM granted, inside a job of SLURM; what DEEPSEEMOE_FAKE_GPUS pretends; what
`nvidia-smi` lists, or /dev/nvidia0 and so on where that fails, as far as CUDA_VISIBLE_DEVICES shows
it. GPUs are numbered as `nvidia-smi` does (CUDA_DEVICE_ORDER=PCI_BUS_ID).
"""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PATIENCE_SECONDS = 60
"""How long nvidia-smi may take; without persistence mode it wakes every GPU first."""


class Gpu(NamedTuple):
    """A GPU: how CUDA_VISIBLE_DEVICES names it, and the name of its lock, which is everybody's."""

    id: str
    lock: str


class Gpus(NamedTuple):
    """The GPUs that a process may use, in order.

    `slurm_job` granted them, where one did; `why_none` says in words why there are none.
    """

    gpus: tuple[Gpu, ...]
    slurm_job: str | None = None
    are_fake: bool = False
    why_none: str = ""


def gpus_here(
    environment: Mapping[str, str] | None = None, *, devices: Path = Path("/dev")
) -> Gpus:
    """Return the GPUs that a process with this environment (default: ours) may use.

    Raises ValueError where DEEPSEEMOE_FAKE_GPUS is no number.
    """
    environment = os.environ if environment is None else environment
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    fake = _n_fake(environment)
    if job := environment.get("SLURM_JOB_ID"):
        tokens = [] if shown is None else _tokens(shown)
        gpus = tuple(Gpu(token, f"slurm-{job}-{token}") for token in tokens)
        return Gpus(gpus, job, fake is not None, f"SLURM granted none to its job {job}")
    if fake is None:
        there = _there(devices)
        why = "this machine has none"
    else:
        there = [Gpu(str(number), f"fake-{number}") for number in range(fake)]
        why = f"DEEPSEEMOE_FAKE_GPUS is {fake}"
    if there and shown is not None:
        why = f"CUDA_VISIBLE_DEVICES is {shown!r}"
        there = _shown(there, _tokens(shown))
    return Gpus(tuple(there), None, fake is not None, why)


def _n_fake(environment: Mapping[str, str]) -> int | None:
    text = environment.get("DEEPSEEMOE_FAKE_GPUS")
    if text is None or not text.strip():
        return None
    if not re.fullmatch(r"\d{1,2}", text.strip(), re.ASCII):
        raise ValueError(f"DEEPSEEMOE_FAKE_GPUS: {text!r} is no number of GPUs; write 0 to 99")
    return int(text)


def _tokens(shown: str) -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES names; as for CUDA, nothing counts from the first -1 on."""
    tokens: list[str] = []
    for token in (part.strip() for part in shown.split(",")):
        if not token or token.startswith("-") or token == "NoDevFiles":
            break
        if token not in tokens:
            tokens.append(token)
    return tokens


def _shown(there: list[Gpu], tokens: list[str]) -> list[Gpu]:
    """Return the GPUs that are named by number, or by UUID or how one begins.

    A number that no GPU has ends the list, as for CUDA. Slices of GPUs (MIG) are taken as named.
    """
    found: list[Gpu] = []
    for token in tokens:
        if token.isdecimal() and int(token) >= len(there):
            break
        alike = [gpu for gpu in there if gpu.lock.lower().startswith(token.lower())]
        if token.isdecimal():
            gpu = Gpu(token, there[int(token)].lock)
        else:
            gpu = Gpu(token, alike[0].lock if len(alike) == 1 else token)
        if gpu.lock not in (other.lock for other in found):
            found.append(gpu)
    return found


def _there(devices: Path) -> list[Gpu]:
    """Return the GPUs of the machine: by nvidia-smi, or else by their device files."""
    listed = _listed()
    if listed:
        return listed
    files = [path.name for path in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    return [Gpu(str(number), f"gpu-{number}") for number in range(len(files))]


def _listed() -> list[Gpu]:
    """Return what nvidia-smi lists; nothing where it fails or is not there."""
    question = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            question,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    pairs = [line.split(",") for line in answer.stdout.splitlines() if line.count(",") == 1]
    gpus = [Gpu(index.strip(), uuid.strip()) for index, uuid in pairs]
    return [gpu for gpu in gpus if gpu.id.isdecimal() and gpu.lock] if not answer.returncode else []
