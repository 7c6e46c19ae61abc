"""Random dictionaries of every kind, gate and window, and their outputs by `Dictionary` itself."""

import numpy as np
import torch

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import PerFeature, TopK, Weighted
from deepseemoe.dictionary.layout import n_slots, parts_of
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.dictionary.weights import Weights
from deepseemoe.names import Window

D_MODEL, D_DICT, K = 12, 50, 6
FIRST = 2
"""First layer of every window."""

KINDS = {
    "sae": ("crosscoder", 1, {}),
    "crosscoder": ("crosscoder", 3, {}),
    "transcoder": ("transcoder", 1, {}),
    "clt": ("transcoder", 3, {}),
    "per_layer": ("transcoder", 3, {"cross_layer": False}),
    "pre_post": ("transcoder", 3, {"reconstruct_input": True}),
    "skip": ("transcoder", 1, {"skip": True}),
    "skip_per_layer": ("transcoder", 3, {"skip": True, "cross_layer": False}),
    "skip_clt": ("transcoder", 3, {"skip": True}),
}
GATES = ("batch_topk", "topk", "topk_unweighted", "jumprelu", "relu")


def made(kind, gate="batch_topk", *, seed=0, reads="moe_in"):
    """Return a random dictionary; one feature has a decoder of 0, which is never active."""
    name, n_layers, options = KINDS[kind]
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    shape = {key: options[key] for key in ("cross_layer", "reconstruct_input") if key in options}
    parts = parts_of(name, n_layers=n_layers, d_dict=D_DICT, **shape)
    slots = n_slots(n_layers, reconstruct_input=options.get("reconstruct_input", False))
    weights = Weights(
        tuple(draw(p.n_features, len(p.reads) * D_MODEL) / D_MODEL**0.5 for p in parts),
        0.2 * draw(D_DICT),
        tuple(
            draw(p.n_features, len(p.writes) * D_MODEL)
            * (0.2 + torch.rand(p.n_features, 1, generator=rng))
            for p in parts
        ),
        0.3 * draw(slots * D_MODEL),
        tuple(draw(D_MODEL, D_MODEL) for _ in range(n_layers)) if options.get("skip") else (),
    )
    weights.decoders[0][3] = 0
    is_crosscoder = name == "crosscoder"
    reading = Normalisation(2 * draw(n_layers, D_MODEL), 0.1 + torch.rand(n_layers, generator=rng))
    writing = Normalisation(2 * draw(slots, D_MODEL), 0.1 + torch.rand(slots, generator=rng))
    return Dictionary(
        kind=name,
        window=Window(FIRST, FIRST + n_layers - 1),
        k=K,
        reads="resid_post" if is_crosscoder else reads,
        writes="resid_post" if is_crosscoder else "moe_out",
        weights=weights,
        reading=reading,
        writing=reading if is_crosscoder else writing,
        gate=_gate(gate, rng),
        activation=gate.removesuffix("_unweighted"),
        **shape,
    )


def _gate(name, rng):
    return {
        "batch_topk": Weighted(3.0),
        "topk": TopK(K),
        "topk_unweighted": TopK(K, weighted=False),
        "jumprelu": PerFeature(0.5 + torch.rand(D_DICT, generator=rng)),
        "relu": Weighted(0.0),
    }[name]


def raw(dictionary, n_tokens=300, seed=1):
    """Return raw activations (T, L, D) of what it reads."""
    rng = torch.Generator().manual_seed(seed)
    shape = (n_tokens, dictionary.n_layers, dictionary.d_model)
    return dictionary.reading.undo(torch.randn(*shape, generator=rng))


def dense(dictionary, x_TLD):
    """Return activations (T, F) by the dictionary's own encode."""
    codes = dictionary.encode(x_TLD)
    z_TF = np.zeros((len(x_TLD), dictionary.d_dict), np.float32)
    tokens = np.repeat(np.arange(len(x_TLD)), np.diff(codes.offsets))
    z_TF[tokens, codes.features] = codes.values
    return torch.from_numpy(z_TF)


def output(dictionary, x_TLD):
    """Return the reconstruction (T, S, D) by the dictionary itself."""
    return dictionary.decode(dictionary.encode(x_TLD), x_TLD)


def close(found, expected):
    """Assert that all numbers agree to 1e-5 of the largest."""
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * max(scale, 1.0))
