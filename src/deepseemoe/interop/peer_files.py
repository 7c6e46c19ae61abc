"""What importers share: files of peers read with errors that say what to do, and what they hold.

Axes: F features, C columns read and written: layer after layer, D d_model each.
"""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import Gate, PerFeature
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.dictionary.weights import Weights
from deepseemoe.interop.folding import inclusive, shifted
from deepseemoe.interop.sites import check_sites
from deepseemoe.names import Window


class Found(NamedTuple):
    """A dictionary as a file has it: raw activations of resid_post in and out, float32."""

    where: str
    encoder_FC: Tensor
    encoder_bias_F: Tensor
    decoder_FC: Tensor
    decoder_bias_C: Tensor
    gate: Gate
    activation: str = "relu"
    hook_names: tuple[str, ...] | None = None
    """What it reads, in the peer's words; None where the file does not say."""
    k: int | None = None

    def with_input_bias(self, bias_C: Tensor) -> "Found":
        """Return it for inputs to which `bias_C` was not added yet."""
        return self._replace(encoder_bias_F=shifted(self.encoder_bias_F, self.encoder_FC, bias_C))

    def scored(self) -> "Found":
        """Return it with activations times decoder norms, and decoders of norm 1."""
        norm_F = torch.linalg.vector_norm(self.decoder_FC, dim=1)
        return self._replace(
            encoder_FC=self.encoder_FC * norm_F[:, None],
            encoder_bias_F=self.encoder_bias_F * norm_F,
            decoder_FC=self.decoder_FC / norm_F.clamp_min(torch.finfo(norm_F.dtype).tiny)[:, None],
        )

    def gated(self, r_mag_F: Tensor, b_gate_F: Tensor) -> "Found":
        """Return a gated SAE as what it is, a JumpReLU one; `encoder_bias_F` is of the magnitudes.

        With y = <e, x>: active where y + b_gate > 0, z = exp(r) y + b_mag. Since exp(r) is above 0
        the gate is open where z > b_mag - exp(r) b_gate.
        """
        gain_F = r_mag_F.exp()
        threshold_F = self.encoder_bias_F - gain_F * b_gate_F
        return self._replace(
            encoder_FC=self.encoder_FC * gain_F[:, None],
            gate=PerFeature(inclusive(threshold_F)),
            activation="jumprelu",
        )

    def dictionary(self, window: Window, *, k: int | None = None) -> Dictionary:
        """Return a crosscoder on `window`, by default of one layer: a plain SAE.

        `k` stands where the file does not say one, 0 where nobody does. Raises ValueError where
        the file reads something else than resid_post of these layers, or holds no numbers.
        """
        n_layers = len(window.layers)
        if self.hook_names is not None:
            check_sites(self.where, self.hook_names, window)
        elif n_layers > 1:
            raise ValueError(
                f"{self.where}: it does not say what it reads, so it is taken for one layer; "
                f"found window {window}, expected one as {Window(window.first, window.first)}"
            )
        self._check_numbers()
        d_model = self.encoder_FC.shape[1] // n_layers
        plain = Normalisation(torch.zeros(n_layers, d_model), torch.ones(n_layers))
        return Dictionary(
            kind="crosscoder",
            window=window,
            k=self.k or k or 0,
            reads="resid_post",
            writes="resid_post",
            weights=Weights(
                (self.encoder_FC.contiguous(),),
                self.encoder_bias_F,
                (self.decoder_FC.contiguous(),),
                self.decoder_bias_C,
            ),
            reading=plain,
            writing=plain,
            gate=self.gate,
            activation=self.activation,
        )

    def _check_numbers(self) -> None:
        for name, tensor in self._asdict().items():
            if isinstance(tensor, Tensor) and not bool(torch.isfinite(tensor).all()):
                raise ValueError(
                    f"{self.where}: {name.rsplit('_', 1)[0]} holds NaN or infinite numbers; "
                    "it cannot be used, ask for another copy"
                )


class Tensors:
    """The tensors of one file, by name."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self.path = path
        self.tensors = tensors

    @classmethod
    def of_safetensors(cls, path: Path) -> "Tensors":
        """Read a safetensors file; raise ValueError where it is missing or damaged."""
        _require_file(path)
        try:
            return cls(path, load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged ({error}); copy it again") from None

    @staticmethod
    def check_safetensors(path: Path) -> None:
        """Raise ValueError where a safetensors file is missing or cut, by its header alone."""
        _require_file(path)
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged ({error}); copy it again") from None

    @classmethod
    def of_torch(cls, path: Path) -> "Tensors":
        """Read a state dict that PyTorch saved, as data only; raise ValueError where it is none.

        It is mapped into memory, so to look at a shape costs little.
        """
        _require_file(path)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError:
            raise ValueError(
                f"{path}: holds more than tensors, which is not read (it could run code); save "
                "its state_dict() alone"
            ) from None
        except (RuntimeError, EOFError) as error:
            told = str(error).splitlines()[0]
            raise ValueError(
                f"{path}: no file that torch.save wrote, or damaged ({told})"
            ) from None
        if not isinstance(state, Mapping):
            found = type(state).__name__
            raise ValueError(f"{path}: holds a {found}; expected a state dict, names and tensors")
        return cls(path, {k: v for k, v in state.items() if isinstance(v, Tensor)})

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def raw(self, name: str) -> Tensor:
        """Return a tensor as it is; raise ValueError where there is none of that name."""
        if name not in self.tensors:
            found = ", ".join(sorted(self.tensors)) or "nothing"
            raise ValueError(
                f"{self.path}: no tensor {name!r}; found {found}; is the format the right one, and "
                "the file whole?"
            )
        return self.tensors[name]

    def get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor as float32 with memory of its own; raise ValueError for another shape."""
        tensor = self.raw(name)
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{self.path}: {name} has the shape {tuple(tensor.shape)}, expected {shape} by the "
                "other tensors and the configuration beside it"
            )
        return tensor.to(torch.float32, copy=True)


def read_object(path: Path, format: str) -> dict[str, Any]:
    """Return a JSON object; raise ValueError where there is none."""
    if not path.is_file():
        found = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else None
        holds = "there is no such folder" if found is None else _shown(found)
        raise ValueError(f"{path.parent}: no dictionary of {format}: no {path.name} ({holds})")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error}); copy it again") from None
    if not isinstance(held, dict):
        raise ValueError(f"{path}: holds a {type(held).__name__}; expected keys and values")
    return held


def value(path: Path, held: Mapping[str, Any], key: str, kind: type) -> Any:
    """Return a value of a JSON object; raise ValueError where it is missing or of another kind."""
    if key not in held:
        raise ValueError(f"{path}: no key {key!r}; found {', '.join(held) or 'none'}")
    found = held[key]
    if not isinstance(found, kind) or isinstance(found, bool):
        raise ValueError(f"{path}: {key} is {found!r}, expected {kind.__name__}")
    return found


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: no such file, the weights of the dictionary; copy it there")


def _shown(names: list[str]) -> str:
    shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
    return f"the folder holds {shown}" if names else "the folder is empty"
