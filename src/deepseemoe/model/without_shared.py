"""The output of shared experts is taken out: what a model does whose shared experts are all 0."""

from collections.abc import Iterator

import torch

from deepseemoe.model.changes import Changes
from deepseemoe.model.hook_points import Decoder
from deepseemoe.model.tap import Edit
from deepseemoe.names import Site


def shared_edits(changes: Changes) -> list[tuple[Site, Edit]]:
    """Return what comes before all edits of a caller, so that these see a shared output of 0."""
    return [(Site("shared_out", layer), torch.zeros_like) for layer in changes.without_shared]


def shared_problems(decoder: Decoder, changes: Changes) -> Iterator[tuple[int, str]]:
    """Yield the layers, and why, that have no shared experts."""
    for layer in changes.without_shared:
        if problem := decoder.layer_problem(layer):
            yield layer, problem
        elif not decoder.has_shared:
            yield layer, "the model has no shared experts"
