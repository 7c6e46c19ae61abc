"""The dictionary that training starts from.

Axes: T tokens, C columns of the window.
"""

from deepseemoe.config.dictionary import DictionaryConfig
from deepseemoe.dictionary.batches import Batches
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.form import hook_points, parts_in
from deepseemoe.dictionary.weights import (
    Weights,
    regressed_weights,
    tied_weights,
    with_skips,
    with_thresholds,
)
from deepseemoe.names import Window


def untrained(
    config: DictionaryConfig, window: Window, batches: Batches, *, seed: int
) -> Dictionary:
    """Return the dictionary that training starts from."""
    reads, writes = hook_points(config)
    return Dictionary(
        kind=config.kind,
        window=window,
        k=config.k,
        reads=reads,
        writes=writes,
        weights=_initial(config, len(window.layers), batches, seed=seed),
        reading=batches.reads.normalisation,
        writing=batches.writes.normalisation,
        activation=config.activation,
        cross_layer=config.cross_layer,
        reconstruct_input=config.reconstruct_input,
    )


def _initial(config: DictionaryConfig, n_layers: int, batches: Batches, *, seed: int) -> Weights:
    """Return the weights that training starts from."""
    parts, d_model = parts_in(config, n_layers=n_layers), batches.reads.d_model
    init_norm = 1.0 if config.decoder_norm == "unit" else config.init_norm
    shape = {"d_model": d_model, "init_norm": init_norm, "seed": seed}
    if config.kind == "crosscoder":
        weights = tied_weights(parts[0], **shape)
    else:
        weights = regressed_weights(parts, *batches.batch(0), **shape)
    if config.skip:
        weights = with_skips(weights, n_layers, d_model=d_model)
    if config.activation == "jumprelu":
        x_TC = batches.batch(0).inputs_TC
        weights = with_thresholds(weights, parts, x_TC, k=config.k, d_model=d_model)
    return weights
