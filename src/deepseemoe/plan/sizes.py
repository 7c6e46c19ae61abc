"""Sizes of a model by its `config.json` alone, as plain JSON: no torch, no transformers.

`network` counts parameters exactly, on the model's outline, and takes seconds to import. Here the
large ones are added up by hand, for whoever asks at each start of Snakemake: within a tenth of
`network` for the published models (tests/unit/plan/test_ram.py).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deepseemoe.config import RunConfig

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_SHARED = ("n_shared_experts", "moe_num_shared_experts", "num_shared_experts")
_CHOSEN = ("num_experts_per_tok", "experts_per_token", "moe_k")
_DENSE = ("first_k_dense_replace", "moe_layer_start_index")


class Sizes(NamedTuple):
    """What of a model memory follows from."""

    n_layers: int
    d_model: int
    n_experts: int
    top_k: int
    vocab_size: int
    n_layer: int
    """Parameters of one layer with experts."""

    def n_parameters(self, n_layers: int | None = None) -> int:
        """Return the parameters of the first layers, without the head, or of all for None."""
        ends = self.vocab_size * self.d_model * (2 if n_layers is None else 1)
        return ends + min(n_layers or self.n_layers, self.n_layers) * self.n_layer


def sizes_of(run: RunConfig) -> Sizes | None:
    """Return the sizes of the model that a run reads; None where its config.json is not here."""
    if run.model.source != "hub":
        return _own(run)
    file = _file(str(run.model.name), run.model.revision)
    try:
        return read_sizes(json.loads(file.read_text())) if file else None
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
    ):  # whoever loads the model says what is wrong with it
        return None


def fetched_sizes(run: RunConfig) -> Sizes:
    """Return the sizes of the model that a run reads; its config.json is fetched where it must be.

    Raises OSError where it cannot be had, ValueError where it names no sizes that are known.
    """
    name, revision = str(run.model.name), run.model.revision
    if (found := sizes_of(run)) is not None:
        return found
    if Path(name).expanduser().is_dir() or Path(name).is_absolute():
        file = Path(name).expanduser() / "config.json"
    else:
        from huggingface_hub import hf_hub_download  # for Hub names only

        file = Path(hf_hub_download(name, "config.json", revision=revision))
    found = read_sizes(json.loads(file.read_text(encoding="utf-8")))
    if found is None:
        raise ValueError(f"{file} does not say its width, layers and experts")
    return found


def read_sizes(config: Mapping[str, Any]) -> Sizes | None:
    """Return the sizes in a config.json; None where it names none that are known."""
    config = config.get("text_config") or config
    d_model, n_layers = config.get("hidden_size"), config.get("num_hidden_layers")
    n_experts = _first(config, _EXPERTS)
    if not (d_model and n_layers and n_experts):
        return None
    d_expert = config.get("moe_intermediate_size") or config.get("intermediate_size", 4 * d_model)
    shared = _first(config, _SHARED) or 0
    attention = _attention(config, d_model)
    experts = 3 * d_model * d_expert * (n_experts + shared)
    return Sizes(
        n_layers=n_layers,
        d_model=d_model,
        n_experts=n_experts,
        top_k=_first(config, _CHOSEN) or 1,
        vocab_size=config.get("vocab_size", 0),
        n_layer=attention + experts + d_model * n_experts,
    )


def _own(run: RunConfig) -> Sizes:
    shape = run.model.architecture
    d_model, n_experts = shape.d_model, shape.n_experts + shape.n_shared_experts
    return Sizes(
        n_layers=shape.n_layers,
        d_model=d_model,
        n_experts=shape.n_experts,
        top_k=shape.top_k,
        vocab_size=run.corpus.tokenizer.vocab_size,
        n_layer=4 * d_model**2 + 3 * d_model * shape.d_expert * n_experts,
    )


def _attention(config: Mapping[str, Any], d_model: int) -> int:
    """Return the parameters of queries, keys, values and output; latent attention has fewer."""
    n_heads = config.get("num_attention_heads") or 1
    d_head = config.get("head_dim") or d_model // n_heads
    n_kept = config.get("num_key_value_heads") or n_heads
    return 2 * d_model * d_head * (n_heads + n_kept)


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((config[name] for name in names if config.get(name)), None)


def _file(name: str, revision: str | None) -> Path | None:
    """Return the config.json of a folder, or of a Hub name that was fetched before."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder / "config.json"
    from huggingface_hub import try_to_load_from_cache  # a tenth of a second, for Hub names only

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError:  # no name of the Hub; whoever loads the model says so
        return None
    return Path(found) if isinstance(found, str) else None
