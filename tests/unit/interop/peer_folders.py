"""Folders of peers written by hand, with known answers."""

import json
import math

import torch
from safetensors.torch import save_file

D_IN, D_SAE = 8, 6


def numbers(seed=0):
    """Return encoder (F, C), encoder bias, decoder (F, C) and decoder bias."""
    rng = torch.Generator().manual_seed(seed)
    shapes = (D_SAE, D_IN), (D_SAE,), (D_SAE, D_IN), (D_IN,)
    return tuple(torch.randn(*shape, generator=rng) for shape in shapes)


def sae_lens(folder, architecture="standard", *, tensors=None, drop=(), **config):
    """Write an SAE of SAELens."""
    encoder, b_enc, decoder, b_dec = numbers()
    held = {"W_enc": encoder.t(), "b_enc": b_enc, "W_dec": decoder, "b_dec": b_dec}
    held |= tensors or {}
    said = {
        "architecture": architecture,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "hook_name": "blocks.5.hook_resid_post"},
    } | config
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: t.contiguous() for name, t in held.items() if name not in drop}
    save_file(kept, folder / "sae_weights.safetensors")
    text = json.dumps({key: v for key, v in said.items() if key not in drop})
    (folder / "cfg.json").write_text(text)
    return folder


def learned(folder, name="BatchTopKSAE", *, tensors=None, drop=(), trainer=None, config=None):
    """Write an SAE of dictionary_learning, of a class with linear modules."""
    encoder, b_enc, decoder, b_dec = numbers()
    held = {
        "k": torch.tensor(2, dtype=torch.int32),
        "threshold": torch.tensor(0.5),
        "encoder.weight": encoder,
        "encoder.bias": b_enc,
        "decoder.weight": decoder.t(),
        "b_dec": b_dec,
    } | (tensors or {})
    said = {
        "trainer": {
            "trainer_class": "BatchTopKTrainer",
            "dict_class": name,
            "activation_dim": D_IN,
            "dict_size": D_SAE,
            "k": 2,
            "layer": 5,
            "lm_name": "openai/gpt-oss-20b",
            "submodule_name": "resid_post_layer_5",
        }
        | (trainer or {}),
        "buffer": {"d_submodule": D_IN, "io": "out", "ctx_len": 2048},
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({k: v.contiguous() for k, v in held.items() if k not in drop}, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps(said if config is None else config))
    return folder


def expected(x_TC, *, subtracts=True, threshold=0.0, k=None, seed=0):
    """Return activations and output of the numbers, token by token in plain Python."""
    encoder, b_enc, decoder, b_dec = (t.double().tolist() for t in numbers(seed))
    rows_z, rows_y = [], []
    for x in x_TC.double().tolist():
        inputs = [a - b for a, b in zip(x, b_dec, strict=True)] if subtracts else x
        z = [
            math.fsum(a * b for a, b in zip(row, inputs, strict=True)) + bias
            for row, bias in zip(encoder, b_enc, strict=True)
        ]
        z = [max(value, 0.0) * (value > threshold) for value in z]
        if k is not None:
            edge = sorted(z, reverse=True)[k - 1]
            z = [value * (value >= edge) for value in z]
        rows_z.append(z)
        pairs = [(value, row) for value, row in zip(z, decoder, strict=True)]
        rows_y.append([b_dec[c] + math.fsum(v * row[c] for v, row in pairs) for c in range(D_IN)])
    return torch.tensor(rows_z).float(), torch.tensor(rows_y).float()
