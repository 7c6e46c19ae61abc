"""One export: a dictionary's folder in, a folder in another tool's format out, whole or not."""

from collections.abc import Callable
from pathlib import Path

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.interop import (
    circuit_tracer,
    delphi,
    dictionary_learning,
    neuronpedia,
    portable,
    saelens,
    sparsify,
)
from deepseemoe.interop.folders import new_folder
from deepseemoe.interop.run_folder import RunFolder

Writer = Callable[..., None]

WRITERS: dict[str, Writer] = {
    "saelens": saelens.write,
    "sparsify": sparsify.write,
    "dictionary_learning": dictionary_learning.write,
    "circuit_tracer": circuit_tracer.write,
    "portable": portable.write,
}
"""What each format of weights is written by."""

RUN_WRITERS: dict[str, Writer] = {"neuronpedia": neuronpedia.write, "delphi": delphi.write}
"""What each format of features, their contexts and descriptions, is written by."""

UNKNOWN = "unknown"
"""Name of a model that nobody told."""


def export_dictionary(
    source: Path,
    *,
    format: str,
    folder: Path,
    model: str | None = None,
    n_layers: int | None = None,
) -> Path:
    """Write the dictionary in `source` to a new folder in another tool's format, and return it.

    Formats of features are written from the run around `source`. `n_layers`, of the whole model, is
    needed for circuit_tracer alone. Raises ValueError where the format is unknown or cannot say
    what the dictionary does, where the run lacks what it is written from, and where `folder` is not
    new or empty; nothing is left there then.
    """
    if format in RUN_WRITERS:
        run = RunFolder.of(source, format)
        with new_folder(folder) as partial:
            RUN_WRITERS[format](run, partial, model=model, n_layers=n_layers)
        return folder
    if format not in WRITERS:
        known = ", ".join((*WRITERS, *RUN_WRITERS))
        raise ValueError(f"format {format!r}; expected one of {known}")
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
        WRITERS[format](dictionary, partial, model=model or UNKNOWN, **depth)
    return folder
