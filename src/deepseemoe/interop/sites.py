"""What other tools call the places that a dictionary reads and writes.

TransformerLens counts layers as `blocks.8`, Hugging Face modules are `model.layers.8`. `moe_in` and
`moe_out` are the input and output of the MLP block, which is what circuit-tracer calls
`mlp.hook_in` and `mlp.hook_out` for gpt-oss.
"""

import re
from collections.abc import Sequence

from deepseemoe.names import Site, Window, layer_name

LENS = {
    "resid_pre": "blocks.{}.hook_resid_pre",
    "attn_out": "blocks.{}.hook_attn_out",
    "resid_mid": "blocks.{}.hook_resid_mid",
    "moe_in": "blocks.{}.mlp.hook_in",
    "moe_out": "blocks.{}.mlp.hook_out",
    "resid_post": "blocks.{}.hook_resid_post",
}
"""Hook names of TransformerLens."""

MODULES = {"resid_post": "layers.{}", "attn_out": "layers.{}.self_attn", "moe_out": "layers.{}.mlp"}
"""Modules of a Hugging Face model, by what they put out."""

_LENS = re.compile(r"blocks\.(\d+)\.(hook_resid_post|hook_resid_pre)")
_MODULE = re.compile(r"(?:\w+\.)*(?:layers|h|blocks)\.(\d+)")
_SUBMODULE = re.compile(r"resid_post_layer_(\d+)")


def lens_name(site: str) -> str:
    """Return the TransformerLens name of a site, `blocks.8.hook_resid_post` of resid_post/L08."""
    parsed = Site.parse(site)
    return LENS[parsed.hook_point].format(parsed.layer)


def module_name(hook_point: str, layers: Sequence[int]) -> str:
    """Return the Hugging Face module whose output a hook point is, `layers.8`; of a run, its ends.

    A transcoder's is the MLP block, whose input it reads.
    """
    pattern = MODULES.get(hook_point, MODULES["moe_out"])
    return pattern.format("-".join(dict.fromkeys((str(layers[0]), str(layers[-1])))))


def residual_layer(name: str) -> int | None:
    """Return the layer whose resid_post a peer's name means, None where it means anything else.

    What goes into layer 9 is what comes out of layer 8; a module's name means its output.
    """
    if found := _LENS.fullmatch(name):
        return int(found[1]) - (found[2] == "hook_resid_pre")
    found = _SUBMODULE.fullmatch(name) or _MODULE.fullmatch(name)
    return int(found[1]) if found else None


def check_sites(where: str, names: Sequence[str], window: Window) -> None:
    """Raise ValueError where hook names of a file are not resid_post of the window's layers."""
    layers = [residual_layer(name) for name in names]
    if None in layers:
        raise ValueError(
            f"{where}: it reads {names[layers.index(None)]!r}; only dictionaries of the residual "
            "stream after a layer can be imported, such as blocks.8.hook_resid_post, model.layers.8"
        )
    if layers != list(window.layers):
        found = ", ".join(layer_name(layer) for layer in layers if layer is not None)
        ends = Window(layers[0], layers[-1]) if layers[0] >= 0 else "no window"
        raise ValueError(
            f"{where}: it reads resid_post of {found} ({', '.join(names)}), and the window is "
            f"{window}; expected {ends}"
        )
