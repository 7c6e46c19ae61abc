"""Where each heavy stage computes, and which GPU is whose.

A stage is given `cpu`, `cuda` (any one GPU), a number of GPUs (any), one GPU by name (`cuda:1`), or
several by name (`[cuda:0, cuda:1]`). A name is a wish that every machine can meet: it is taken
modulo the number of GPUs that are there, so a run for two GPUs also runs on one, or on none.
"""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from deepseemoe.config.base import Section

N_NAMED = 30
"""GPUs that can be named, cuda:0 to cuda:29: more than any machine has."""

Pin = int | None
"""A GPU by its number, or any."""

_NAME = r"cuda:(0|[1-9]|1\d|2\d)"
_ONE = "cpu, cuda (any one GPU), or one by name as cuda:1"
_SEVERAL = "cpu, cuda (any one GPU), a number of GPUs, one by name as cuda:1, or [cuda:0, cuda:1]"
_WORDS = {"enum": ["cpu", "cuda"], "type": "string"}
_NAMED = {"type": "string", "pattern": f"^{_NAME}$"}
_LIST = {"type": "array", "items": _NAMED, "minItems": 1, "uniqueItems": True}


def _one(value: Any) -> Any:
    if value in ("cpu", "cuda") or _is_name(value):
        return value
    raise ValueError(f"expected {_ONE}")


def _several(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= N_NAMED:
        return value
    if isinstance(value, (list, tuple)):
        return _named(tuple(value))
    if value in ("cpu", "cuda") or _is_name(value):
        return value
    raise ValueError(f"expected {_SEVERAL}")


def _named(names: tuple[Any, ...]) -> tuple[str, ...]:
    if not names or not all(map(_is_name, names)):
        raise ValueError("a list names GPUs, as [cuda:0, cuda:1]")
    if len({*names}) < len(names):
        raise ValueError("a GPU stands twice")
    return names


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(_NAME, value, re.ASCII) is not None


Device = Annotated[str, BeforeValidator(_one), WithJsonSchema({"anyOf": [_WORDS, _NAMED]})]
Devices = Annotated[
    str | int | tuple[str, ...],
    BeforeValidator(_several),
    WithJsonSchema(
        {"anyOf": [_WORDS, _NAMED, {"type": "integer", "minimum": 1, "maximum": N_NAMED}, _LIST]}
    ),
]


class DevicesConfig(Section):
    """Where each heavy stage computes: `cpu`, `cuda` (any one GPU), a number of GPUs, or by name.

    Names are `cuda:1`, or `[cuda:0, cuda:1]` for several. Several GPUs are for a model that is too
    large for one, whose layers are spread over them, and for dictionaries that are, whose features
    are. Where a machine has fewer GPUs, stages share those that are there; without any they compute
    on the CPU (docs/devices.md).
    """

    model: Device = Field("cpu", description="Training of NanoMoE.")
    activations: Devices = Field("cpu", description="Capture of activations; `live` runs there.")
    dictionary: Devices = Field(
        "cpu", description="Training of dictionaries; several GPUs share each one's features."
    )
    evaluation: Devices = Field("cpu", description="Evaluation, which runs the whole model.")
    features: Device = Field("cpu", description="Encoding of the test split.")
    experts: Devices = Field(
        "cpu", description="Effects of features and writes of experts, which run the model."
    )
    prediction: Device = Field("cpu", description="Probes that predict routing.")
    require_gpu: bool = Field(
        False,
        description="Refuse to begin where a stage asks for a GPU and the machine shows none; else "
        "such a stage computes on the CPU, with one line of warning.",
    )
    processes: int = Field(
        1,
        ge=1,
        description="Processes that share each dictionary's features where `dictionary` is cpu; "
        "for trying out what several GPUs do.",
    )
    gpu_gib: float = Field(
        80.0, gt=3, description="Memory of a GPU (GiB), for batches.together: auto and for `plan`."
    )

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that have a key here."""
        others = ("require_gpu", "processes", "gpu_gib")
        return tuple(name for name, _ in self if name not in others)

    def pins(self, stage: str) -> tuple[Pin, ...]:
        """Return the GPUs that a stage asks for, in its order: numbers, and None for any one."""
        device = getattr(self, stage)
        if isinstance(device, int):
            return (None,) * device
        names = (device,) if isinstance(device, str) else device
        return tuple(_pin(name) for name in names if name != "cpu")

    def on_gpu(self, stage: str) -> bool:
        """Return whether a stage computes on GPUs."""
        return self.n_gpus(stage) > 0

    def n_gpus(self, *stages: str) -> int:
        """Return how many GPUs a job of these stages asks for; one named twice counts once."""
        return n_distinct([pin for stage in stages for pin in self.pins(stage)])


def n_distinct(pins: list[Pin]) -> int:
    """Return how many GPUs these are: each that is named once, and all others."""
    return pins.count(None) + len({*pins} - {None})


def _pin(name: str) -> Pin:
    return None if name == "cuda" else int(name.removeprefix("cuda:"))
