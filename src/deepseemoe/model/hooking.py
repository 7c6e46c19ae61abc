"""What all interventions together put hooks on, and whether they can be on together.

Routers decide first, then experts compute; edits, and recorders after them, come behind both.
"""

from collections.abc import Iterator

from deepseemoe.model.active_k import RouterWithK, k_problems
from deepseemoe.model.ban import rerouted, routing_problems
from deepseemoe.model.changes import Changes, Hooked, refuse
from deepseemoe.model.drop import DroppedExperts, drop_problems
from deepseemoe.model.hook_points import Decoder
from deepseemoe.model.without_shared import shared_problems


def check(decoder: Decoder, changes: Changes, what: str) -> None:
    """Raise one ValueError that names all layers where changes are not possible."""
    refuse(what, dict.fromkeys(_problems(decoder, changes)))


def hooked_by(decoder: Decoder, changes: Changes) -> list[Hooked]:
    """Return all that interventions put hooks on, except edits, in the order of a forward pass."""
    with_k = [RouterWithK(decoder, layer, k) for layer, k in changes.top_k.items()]
    dropped = [DroppedExperts(decoder, layer, ids) for layer, ids in changes.drops.items()]
    return [*with_k, *rerouted(decoder, changes), *dropped]


def _problems(decoder: Decoder, changes: Changes) -> Iterator[tuple[int, str]]:
    wrong_k = list(k_problems(decoder, changes.top_k))
    yield from wrong_k
    fitting = dict(changes.top_k)
    for layer, _ in wrong_k:
        del fitting[layer]
    yield from routing_problems(decoder, changes._replace(top_k=fitting))
    yield from drop_problems(decoder, changes)
    yield from shared_problems(decoder, changes)
