"""Everything that is measured of the arms of one window and seed, on held-out documents."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepseemoe.config import JustifyConfig
from deepseemoe.dictionary.batches import open_stores
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.site_names import site_names
from deepseemoe.justify.coders import Coder, Copy, Separate, coder_of
from deepseemoe.justify.copying import fit_copy
from deepseemoe.justify.plan import CROSSCODER, Member, evaluated, members, width_of
from deepseemoe.justify.probes import Split, probe_baselines, probe_features, selections
from deepseemoe.justify.reconstruction import Coded, encode, means_of, measure_fvu
from deepseemoe.justify.rows import Rows
from deepseemoe.justify.sharing import duplicates_per_1k, effective_layers
from deepseemoe.justify.splicing import measure_splices
from deepseemoe.justify.sums import COLUMNS, Sums
from deepseemoe.model.adapter import MoeModel
from deepseemoe.names import Window
from deepseemoe.runtime.files import write_json
from deepseemoe.runtime.tables import write_table

logger = logging.getLogger(__name__)

SHUFFLED, RANDOM = "shuffled", "random"


@dataclass(frozen=True)
class Held:
    """What is held out from training: rows that probes are fitted on, and rows that are tested."""

    window: Window
    fit: Rows
    test: Rows

    @cached_property
    def routers(self) -> tuple[int, ...]:
        """The routers of the window's layers and of the layer after it, where they are stored."""
        wanted = (*self.window.layers, self.window.last + 1)
        stored = self.test.stores[0].names
        return tuple(n for n in wanted if f"expert_ids/L{n:02d}" in stored)

    @cached_property
    def splits(self) -> tuple[Split, Split]:
        """Tokens and router choices to fit and to test."""
        arrays = [f"expert_ids/L{n:02d}" for n in self.routers]
        n_experts = 1 + max(
            int(rows.array(name).max()) for rows in (self.fit, self.test) for name in arrays
        )
        fit, test = (
            Split(rows.tokens(), selections(rows, self.routers, n_experts))
            for rows in (self.fit, self.test)
        )
        return fit, test


def evaluate_window(
    config: JustifyConfig,
    *,
    window: Window,
    weights: str,
    seed: int,
    folder_of: Callable[[Member], Path],
    select_stores: Sequence[Path],
    test_stores: Sequence[Path],
    tokens: Sequence[Path],
    model: MoeModel | None,
    folder: Path,
) -> None:
    """Write `sums.parquet` and `metrics.json` of the arms of one window and seed to `folder`.

    `weights` is `trained`, or `random` for the arm of that name, which is put into no `model`.
    Test stores and token shards stand in the same order. Raises ValueError where files do not
    belong together.
    """
    sites = site_names("resid_post", window)
    held = Held(
        window,
        Rows(open_stores(select_stores, sites), max_tokens=config.probe_tokens),
        Rows(open_stores(test_stores, sites), max_tokens=config.test_tokens),
    )
    sums, arms = Sums(), evaluated(config, window, weights, seed)
    coders = {arm: _coder(config, arm, held, folder_of) for arm in arms}
    metrics = _measure_stored(config, coders, held, sums, seed=seed)
    if model is not None:
        spliced = {arm: coder for arm, coder in coders.items() if arm not in (SHUFFLED, RANDOM)}
        stores, limit = held.test.stores, config.spliced_tokens
        own = tokens[: len(stores)]
        measure_splices(spliced, model, stores=stores, tokens=own, max_tokens=limit, sums=sums)
    about = {"window": str(window), "weights": weights, "seed": seed}
    write_table(folder / "sums.parquet", COLUMNS, list(sums.rows()), about)
    write_json(folder / "metrics.json", about | {"n_tokens": held.test.n_valid, "arms": metrics})


def _coder(
    config: JustifyConfig, arm: str, held: Held, folder_of: Callable[[Member], Path]
) -> Coder:
    """Return what codes the window in an arm."""
    dictionaries = [Dictionary.load(folder_of(m)) for m in members(config, arm, held.window)]
    if arm == "copy":
        return fit_copy(dictionaries[0], held.window, held.fit)
    return coder_of(dictionaries)


@torch.no_grad()
def _measure_stored(
    config: JustifyConfig, coders: Mapping[str, Coder], held: Held, sums: Sums, *, seed: int
) -> dict[str, dict[str, Any]]:
    """Add what needs no model to `sums`, and return the other metrics of each arm."""
    mean_LD, metrics = means_of(held.test, held.window), {}
    sites = site_names("resid_post", held.window)
    fit, test = held.splits if held.routers else (None, None)
    for arm, coder in coders.items():
        rows, documents = held.test, [held.test.tokens().documents] * len(sites)
        if arm == SHUFFLED:
            rows = held.test.shuffled(seed)
            documents = [held.test.documents_at(site, seed) for site in sites]
        coded = measure_fvu(arm, coder, rows, documents, sums, mean_LD=mean_LD)
        metrics[arm] = _metrics(coder, coded, rows)
        if arm != SHUFFLED and held.routers:
            fit_codes = encode(coder, held.fit).codes_TF
            most = config.probe_features
            probe_features(arm, fit_codes, coded.codes_TF, fit, test, sums, max_features=most)
        logger.info("%s on %s: L0 %.2f", arm, held.window, coded.l0)
    if held.routers and (CROSSCODER in coders or RANDOM in coders):
        probe_baselines(held.window, held.fit, held.test, fit, test, sums, k=config.k)
    return metrics


def _metrics(coder: Coder, coded: Coded, rows: Rows) -> dict[str, Any]:
    """Return what is measured of an arm as a whole."""
    width = width_of(coder.window)
    found = {
        "l0": coded.l0,
        "pairs": coded.l0 * (1 if isinstance(coder, Separate) else width),
        "n_features": coder.d_dict,
        "n_parameters": _n_parameters(coder),
        "encoder_mflops": _encoder_mflops(coder),
        "dead_fraction": float(1 - len(np.unique(coded.codes_TF.indices)) / coder.d_dict),
        "duplicates_per_1k": duplicates_per_1k(coded.codes_TF),
        "functional_layers": None,
        "decoder_layers": None,
    }
    if isinstance(coder, Dictionary):
        effective = effective_layers(coder, rows)
        found["functional_layers"], found["decoder_layers"] = effective
    return found


def _dictionaries(coder: Coder) -> tuple[Dictionary, ...]:
    if isinstance(coder, Separate):
        return coder.saes
    return (coder.sae,) if isinstance(coder, Copy) else (coder,)


def _n_parameters(coder: Coder) -> int:
    """Return the numbers in an arm's matrices and biases; a copy has a decoder for each layer."""
    total = sum(t.numel() for one in _dictionaries(coder) for t in one.weights.tensors())
    if isinstance(coder, Copy):
        own = sum(decoder.numel() for decoder in coder.sae.weights.decoders)
        total += coder.decoder_FLD.numel() - own
    return total


def _encoder_mflops(coder: Coder) -> float:
    """Return the millions of multiplications and additions that encode one token."""
    encoders = (e for one in _dictionaries(coder) for e in one.weights.encoders)
    return 2e-6 * sum(encoder.numel() for encoder in encoders)
