"""What the planted model knows: directions of classes and words, and which experts classes call.

Every token's embedding is a sum of orthogonal parts:

    constant + its class's direction + its own word's direction + top_k slots

Words of no class (fillers) lack the second part. The slots stand for the experts that the word
calls where its class calls none, so load is spread over all experts; which slot is which expert
changes from layer to layer. In each layer, of every kind of class (domain, span, trigger) one class
calls no routed expert, one calls two (where top_k allows it) and the others call one.

Axes: C classes, E experts, K top_k, L layers, V vocabulary, D d_model.
"""

from collections.abc import Mapping
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepseemoe.config import ArchitectureConfig
from deepseemoe.runtime.seeds import generator

Floats = NDArray[np.float32]

CONSTANT, CLASS, WORD, SLOT = 0.5, 1.0, 0.6, 0.5
"""Lengths of the parts of an embedding; each further slot is a tenth shorter."""


class World(NamedTuple):
    """Unit directions, and who calls whom: `calls[layer][class]` are experts, maybe none."""

    classes: tuple[str, ...]
    constant_D: Floats
    class_CD: Floats
    words_WD: Floats
    """Basis of the words' directions."""
    word_VD: Floats
    slot_ED: Floats
    written_LCD: Floats
    """What the network writes, in each layer, on tokens of a class."""
    signature_LED: Floats
    """What each expert writes whenever it is chosen."""
    slots_VK: NDArray[np.int64]
    expert_of_slot_LE: NDArray[np.int64]
    calls: tuple[dict[str, tuple[int, ...]], ...]
    class_of_token: dict[int, str]


def build_world(
    shape: ArchitectureConfig, *, class_of_token: Mapping[int, str], vocab_size: int, seed: int
) -> World:
    """Return a world for a vocabulary; tokens that are not in `class_of_token` have no class.

    Raises ValueError where the shape leaves no room for orthogonal directions, or too few experts
    for a class to change the choice.
    """
    if shape.n_experts < 3 * shape.top_k:
        raise ValueError(
            f"n_experts {shape.n_experts} is too few to plant in; it takes 3 times top_k, "
            f"{3 * shape.top_k}"
        )
    rng = generator(seed, "planted model")
    classes = tuple(dict.fromkeys(name for name in class_of_token.values() if name != "filler"))
    n_free = shape.d_model - 1 - len(classes) - shape.n_experts
    if n_free < 32:
        needed = 32 + 1 + len(classes) + shape.n_experts
        raise ValueError(f"d_model {shape.d_model} is too small to plant in; at least {needed}")
    basis_DD = np.linalg.qr(rng.standard_normal((shape.d_model, shape.d_model)))[0].astype("f4")
    parts = np.split(basis_DD, np.cumsum([1, len(classes), shape.n_experts, n_free // 2]))
    constant, class_CD, slot_ED, writable, words_WD = parts
    slots_VK = _slots(class_of_token, vocab_size, shape.n_experts, shape.top_k)
    expert_of_slot_LE = np.stack([rng.permutation(shape.n_experts) for _ in range(shape.n_layers)])
    world = World(
        classes=classes,
        constant_D=constant[0],
        class_CD=class_CD,
        words_WD=words_WD,
        word_VD=_units(rng, (vocab_size,), words_WD),
        slot_ED=slot_ED,
        written_LCD=_units(rng, (shape.n_layers, len(classes)), writable),
        signature_LED=_units(rng, (shape.n_layers, shape.n_experts), writable),
        slots_VK=slots_VK,
        expert_of_slot_LE=expert_of_slot_LE,
        calls=(),
        class_of_token=dict(class_of_token),
    )
    calls = (_calls(world, layer, shape, rng) for layer in range(shape.n_layers))
    return world._replace(calls=tuple(calls))


def embeddings_of(world: World) -> Floats:
    """Return the embedding (V, D) of every token."""
    rows_VD = CONSTANT * world.constant_D + WORD * world.word_VD
    for place, slots_V in enumerate(world.slots_VK.T):
        rows_VD = rows_VD + SLOT * 0.9**place * world.slot_ED[slots_V]
    for token, name in world.class_of_token.items():
        if name in world.classes:
            rows_VD[token] += CLASS * world.class_CD[world.classes.index(name)]
    return rows_VD


def _units(rng: np.random.Generator, shape: tuple[int, ...], within: Floats) -> Floats:
    """Return random unit vectors (*shape, D) in the span of the rows of `within`."""
    rows = rng.standard_normal((*shape, len(within))).astype("f4")
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True) @ within


def _slots(
    class_of_token: Mapping[int, str], vocab_size: int, n_experts: int, top_k: int
) -> NDArray[np.int64]:
    """Return different slots (V, K) for each token, spread evenly over the words of each class."""
    slots_VK = np.zeros((vocab_size, top_k), np.int64)
    n_seen: dict[str, int] = {}
    for token in range(vocab_size):
        name = class_of_token.get(token, "filler")
        lap, first = divmod(n_seen.get(name, 0), n_experts)
        others = (lap + np.arange(top_k - 1)) % (n_experts - 1)
        slots_VK[token] = [first, *(first + 1 + others) % n_experts]
        n_seen[name] = n_seen.get(name, 0) + 1
    return slots_VK


def _calls(
    world: World, layer: int, shape: ArchitectureConfig, rng: np.random.Generator
) -> dict[str, tuple[int, ...]]:
    """Deal the experts of a layer to the classes, kind by kind: no kind crowds an expert."""
    deck = cycle(rng.permutation(shape.n_experts).tolist())
    n_most = min(2, shape.top_k)
    calls: dict[str, tuple[int, ...]] = {}
    for kind in dict.fromkeys(name.split(":")[0] for name in world.classes):
        names = [name for name in world.classes if name.startswith(f"{kind}:")]
        rng.shuffle(names)
        for place, name in enumerate(names):
            n_calls = {0: 0, 1: n_most}.get(place, 1)
            usual = _usual(world, layer, name)
            fresh = (expert for expert in islice(deck, 2 * shape.n_experts) if expert not in usual)
            calls[name] = tuple(islice(fresh, n_calls))
            assert len(set(calls[name])) == n_calls, "n_experts leaves a third of them unusual"
    return calls


def _usual(world: World, layer: int, name: str) -> list[int]:
    """Return the experts that more than a third of a class's words would call without it."""
    tokens = [token for token, other in world.class_of_token.items() if other == name]
    experts = world.expert_of_slot_LE[layer][world.slots_VK[tokens]]
    counts = np.bincount(experts.ravel(), minlength=len(world.slot_ED))
    return np.flatnonzero(counts * 3 > len(tokens)).tolist()
