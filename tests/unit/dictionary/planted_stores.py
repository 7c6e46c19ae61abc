"""Activation stores whose activations are sums of known directions."""

from typing import NamedTuple

import numpy as np

from deepseemoe.activations.bfloat16 import narrow
from deepseemoe.activations.layout import ArraySpec
from deepseemoe.activations.writer import open_writer
from deepseemoe.config.activations import ActivationsConfig

N_FEATURES, D_MODEL, N_ACTIVE = 48, 24, 3.0
LAYOUT = ActivationsConfig(window_tokens=2048, chunk_tokens=128)


class Planted(NamedTuple):
    """Strengths of features, and what each adds to each layer of two hook points."""

    codes_TF: np.ndarray
    reads_FLD: np.ndarray
    writes_FLD: np.ndarray


def directions(n_layers, seed=0):
    """Return unit directions of each feature at each layer."""
    rng = np.random.default_rng([seed, 1])
    draws = rng.standard_normal((N_FEATURES, n_layers, D_MODEL))
    return draws / np.linalg.norm(draws, axis=-1, keepdims=True)


def sparse_codes(n_tokens, seed):
    """Return strengths (T, F): few features on each token, all about as frequent."""
    rng = np.random.default_rng([seed, 2])
    is_active = rng.random((n_tokens, N_FEATURES)) < N_ACTIVE / N_FEATURES
    return is_active * rng.uniform(0.7, 1.3, (n_tokens, N_FEATURES))


def write_store(path, sites, *, positions=None, token_ids=None, split="train", shard=0):
    """Write arrays (T, D) under the names of their sites; the first token of 64 is not valid."""
    n_tokens, width = next(iter(sites.values())).shape
    specs = [ArraySpec(name, "uint16", width, "bfloat16") for name in sites]
    place = np.arange(n_tokens)
    rows = {name: narrow(values.astype(np.float32)) for name, values in sites.items()}
    rows["token_id"] = (place % 11 if token_ids is None else token_ids).astype(np.uint32)
    rows["doc_id"] = (place // 64).astype(np.uint32)
    rows["position"] = (place % 64 if positions is None else positions).astype(np.uint32)
    with open_writer(
        path, specs, n_tokens=n_tokens, config=LAYOUT, seed=0, split=split, shard=shard,
        manifest={"model": "planted"},
    ) as writer:  # fmt: skip
        writer.append(rows)
    return path


def crosscoder_sites(codes_TF, reads_FLD, *, seed=0, noise=0.02):
    """Return resid_post of each layer: far from centred, and each layer ten times the last."""
    rng = np.random.default_rng([seed, 3])
    sites = {}
    for layer in range(reads_FLD.shape[1]):
        values = codes_TF @ reads_FLD[:, layer]
        values += noise * rng.standard_normal(values.shape)
        sites[f"resid_post/L{layer:02d}"] = 10.0**layer * (values + 0.5)
    return sites


def transcoder_sites(codes_TLF, reads_FLD, writes_FLD, *, seed=0, noise=0.02):
    """Return moe_in and moe_out: codes (T, L, F) of a layer write there and at later layers."""
    rng = np.random.default_rng([seed, 3])
    n_layers = reads_FLD.shape[1]
    sites = {}
    for layer in range(n_layers):
        shape = (len(codes_TLF), reads_FLD.shape[2])
        x = codes_TLF[:, layer] @ reads_FLD[:, layer] + noise * rng.standard_normal(shape)
        y = sum(codes_TLF[:, s] @ writes_FLD[:, s] for s in range(layer + 1))
        sites[f"moe_in/L{layer:02d}"] = 2.0 * (x - 0.3)
        sites[f"moe_out/L{layer:02d}"] = 0.1 * (y + noise * rng.standard_normal(shape))
    return sites


def matched_cosines(found_FD, true_FD):
    """Return the largest cosine of any found direction with each true one."""
    found = found_FD / np.linalg.norm(found_FD, axis=1, keepdims=True).clip(1e-12)
    true = true_FD / np.linalg.norm(true_FD, axis=1, keepdims=True)
    return (true @ found.T).max(axis=1)
