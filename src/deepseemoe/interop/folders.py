"""What exporters share: a folder that appears whole, tensors and JSON in it, lines that refuse.

Axes: S slots, W columns written, R columns read, D d_model.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.interop.folding import Block, Folded
from deepseemoe.runtime.files import growing, remove


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` where the block succeeds.

    Raises ValueError where something stands there already: nothing is replaced.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder}: already there; name a folder that is new or empty")
    with growing(folder) as partial:
        partial.mkdir()
        try:
            yield partial
        except BaseException:
            remove(partial)
            raise


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write float32 tensors as safetensors, each with memory of its own."""
    save_file({name: tensor.float().contiguous().clone() for name, tensor in tensors.items()}, path)


def own_bias(folded: Folded, block: Block, dictionary: Dictionary) -> Tensor:
    """Return the decoder bias (W,) of a block: of the slots of layers that it reads, else 0.

    So where several blocks write a slot, the sum of what they write is the reconstruction.
    """
    n_slots = dictionary.n_slots // dictionary.n_layers
    own = range(n_slots * block.reads.start, n_slots * block.reads.stop)
    rows = [folded.decoder_bias_SD[slot] * (slot in own) for slot in block.writes]
    return torch.cat(rows)


def own_skip(folded: Folded, block: Block, dictionary: Dictionary) -> Tensor | None:
    """Return the skip connection (W, D) of a block, 0 at all slots but its layer's output."""
    if not folded.skips:
        return None
    layer = block.reads.start
    output = range(dictionary.n_slots)[dictionary.outputs][layer]
    skip_DD = folded.skips[layer]
    return torch.cat([skip_DD if slot == output else skip_DD * 0 for slot in block.writes])


def source_layer(dictionary: Dictionary, block: Block) -> int:
    """Return the first layer of the model that a block reads."""
    return dictionary.window.first + block.reads.start


def layer_folder(folder: Path, dictionary: Dictionary, block: Block) -> Path:
    """Return where one block goes: the folder itself, or one below it for each source layer."""
    if len(dictionary.parts) == 1:
        return folder
    below = folder / f"layer_{source_layer(dictionary, block)}"
    below.mkdir()
    return below


def refuse_unless_square(dictionary: Dictionary, format: str) -> None:
    """Raise ValueError where a dictionary does not write just the columns that it reads."""
    if dictionary.reconstruct_input:
        refuse(dictionary, format, "it writes what it reads as well (reconstruct_input)")
    if dictionary.kind == "transcoder" and dictionary.cross_layer and dictionary.n_layers > 1:
        refuse(dictionary, format, "its features write several layers (cross_layer)")


def refuse(dictionary: Dictionary, format: str, why: str) -> None:
    """Raise ValueError: a format cannot express a dictionary."""
    raise ValueError(
        f"the {dictionary.kind} on {dictionary.window} cannot be written for {format}: {why}, "
        f"which that format cannot say; export it --to portable"
    )


def described(dictionary: Dictionary, model: str) -> dict[str, Any]:
    """Return what any tool may want to know of where a dictionary comes from."""
    return {
        "model": model,
        "kind": dictionary.kind,
        "window": str(dictionary.window),
        "reads": list(dictionary.read_names),
        "writes": list(dictionary.written_names),
        "activation": dictionary.activation,
        "k": dictionary.k,
        "l0": dictionary.l0,
        "exported_by": "deepseemoe",
    }
