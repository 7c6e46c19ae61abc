"""One export: a dictionary's folder in, a folder in another tool's format out, whole or not."""

from collections.abc import Callable
from pathlib import Path

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.interop import circuit_tracer, dictionary_learning, portable, saelens, sparsify
from deepseemoe.interop.folders import new_folder

Writer = Callable[..., None]

WRITERS: dict[str, Writer] = {
    "saelens": saelens.write,
    "sparsify": sparsify.write,
    "dictionary_learning": dictionary_learning.write,
    "circuit_tracer": circuit_tracer.write,
    "portable": portable.write,
}
"""What each format is written by."""

UNKNOWN = "unknown"
"""Name of a model that nobody told."""


def export_dictionary(
    source: Path,
    *,
    format: str,
    folder: Path,
    model: str = UNKNOWN,
    n_layers: int | None = None,
) -> Path:
    """Write the dictionary in `source` to a new folder in another tool's format, and return it.

    `n_layers`, of the whole model, is needed for circuit_tracer alone. Raises ValueError where the
    format is none of WRITERS or cannot say what the dictionary does, and where `folder` is not new
    or empty; nothing is left there then.
    """
    if format not in WRITERS:
        raise ValueError(f"format {format!r}; expected one of {', '.join(WRITERS)}")
    depth = {}
    if format == "circuit_tracer":
        if n_layers is None:
            raise ValueError(
                "circuit_tracer wants transcoders at every layer of the model, and windows are "
                "padded: add --n-layers N, the number of layers of the model"
            )
        depth = {"n_layers": n_layers}
    dictionary = Dictionary.load(source)
    with new_folder(folder) as partial:
        WRITERS[format](dictionary, partial, model=model, **depth)
    return folder
