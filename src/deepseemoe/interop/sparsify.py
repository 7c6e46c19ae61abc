"""sparsify 1.3: `{hookpoint}/cfg.json` and `{hookpoint}/sae.safetensors`, written only.

sparsify knows per-token TopK alone. A dictionary with TopK is exact there; one of BatchTopK is
written with the same k, which is an approximation: of each token exactly k features are active
instead of k on average. cfg.json and README.md say so. Others are refused.

An SAE of sparsify subtracts b_dec before it encodes, a transcoder does not.
"""

from pathlib import Path
from typing import Any

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import TopK, Weighted
from deepseemoe.dictionary.topk import shares_of
from deepseemoe.interop.cards import card
from deepseemoe.interop.folders import (
    described,
    own_bias,
    own_skip,
    refuse,
    refuse_unless_square,
    save_tensors,
    source_layer,
)
from deepseemoe.interop.folding import Block, Folded, fold
from deepseemoe.interop.sites import module_name
from deepseemoe.runtime.files import write_json, write_text

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"

SCORED = (
    "Activations are multiplied by each feature's decoder norm (decoders divided by it), since "
    "sparsify ranks activations. Normalisation is folded into the weights."
)
EXACT = "Exact outputs: both keep the k highest features of each token."
APPROXIMATE = (
    "APPROXIMATE: the dictionary has a threshold that lets k features through on average "
    "(BatchTopK); here exactly k features of each token are active. Reconstructions differ."
)
USE = """```python
from sparsify import SparseCoder

sae = SparseCoder.load_from_disk("{hookpoint}")
output = sae(x).sae_out  # x: (tokens, {d_in}) float32
```"""


def write(dictionary: Dictionary, folder: Path, *, model: str) -> None:
    """Write a dictionary for sparsify into an empty folder, a folder below it for each hookpoint.

    Raises ValueError for what is neither TopK nor BatchTopK, or not square.
    """
    refuse_unless_square(dictionary, "sparsify")
    if not _is_topk(dictionary):
        why = f"its features have thresholds ({dictionary.activation}), and no k"
        refuse(dictionary, "sparsify", why)
    folded = fold(dictionary)
    for block in folded.blocks:
        home = folder / hookpoint(dictionary, block)
        home.mkdir()
        _write_block(dictionary, folded, block, home, model)
    write_text(folder / "README.md", _card(dictionary, folded.blocks[0], model))


def hookpoint(dictionary: Dictionary, block: Block) -> str:
    """Return the module of a block, `layers.8`; of a crosscoder's window `layers.8-10`."""
    layers = [dictionary.window.first + layer for layer in block.reads]
    return module_name(dictionary.writes, layers)


def _is_topk(dictionary: Dictionary) -> bool:
    is_batch = isinstance(dictionary.gate, Weighted) and dictionary.activation == "batch_topk"
    return isinstance(dictionary.gate, TopK) or is_batch


def _write_block(
    dictionary: Dictionary, folded: Folded, block: Block, home: Path, model: str
) -> None:
    is_exact = block.k is not None
    k = block.k or shares_of(dictionary.k, dictionary.parts)[block.reads]
    bias_W, skip_WR = own_bias(folded, block, dictionary), own_skip(folded, block, dictionary)
    scored = block.scored()
    if dictionary.kind == "crosscoder":
        scored = scored.with_input_bias(bias_W)
    tensors = {
        "encoder.weight": scored.encoder_FR,
        "encoder.bias": scored.encoder_bias_F,
        "W_dec": scored.decoder_FW,
        "b_dec": bias_W,
        **({} if skip_WR is None else {"W_skip": skip_WR}),
    }
    save_tensors(home / WEIGHTS, tensors)
    config: dict[str, Any] = {
        "activation": "topk",
        "expansion_factor": -(-len(block.encoder_FR) // block.encoder_FR.shape[1]),
        "normalize_decoder": False,
        "num_latents": len(block.encoder_FR),
        "k": k,
        "multi_topk": False,
        "skip_connection": skip_WR is not None,
        "transcode": dictionary.kind == "transcoder",
        "d_in": block.encoder_FR.shape[1],
        "deepseemoe": described(dictionary, model)
        | {"layer": source_layer(dictionary, block), "note": EXACT if is_exact else APPROXIMATE},
    }
    write_json(home / CONFIG, config)


def _card(dictionary: Dictionary, block: Block, model: str) -> str:
    notes = [EXACT if isinstance(dictionary.gate, TopK) else APPROXIMATE, SCORED]
    if dictionary.kind == "crosscoder" and dictionary.n_layers > 1:
        notes.append(f"It reads and writes {', '.join(dictionary.read_names)}, side by side.")
    use = USE.format(hookpoint=hookpoint(dictionary, block), d_in=block.encoder_FR.shape[1])
    return card(
        dictionary, format="sparsify", library="sparsify", model=model, notes=notes, use=use
    )
