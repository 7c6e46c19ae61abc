"""The tables of a finished run as arrays, a layer at a time.

Axes: C domains, V token types, F features, E experts.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from deepseemoe.compare.finished import Finished, Map

UNLABELLED = "unlabelled"
"""What documents without a label are counted under (corpus.documents)."""


class Router(NamedTuple):
    """Load of a layer's experts; the shares add up to top_k."""

    top_k: int
    share_E: np.ndarray


class Domains(NamedTuple):
    """What tokens of each domain choose, and the standard errors over documents."""

    names: tuple[str, ...]
    share_CE: np.ndarray
    error_CE: np.ndarray
    weight_C: np.ndarray
    """Share of the tokens"""


class Bits(NamedTuple):
    """I(domain; choice) less its mean over permuted documents, that mean, in nats."""

    value: float
    lo: float
    hi: float
    chance: float


class Tested(NamedTuple):
    """P(expert | fires) of features with a tested pair; pairs without a test are filled up."""

    features: np.ndarray
    p_FE: np.ndarray
    error_FE: np.ndarray


def read_routers(run: Finished) -> dict[int, Router]:
    """Return the router of each layer; raise ValueError where shares add up to no top_k."""
    table = run.table("routing/load.parquet", "layer", "expert", "share")
    routers = {}
    for layer, rows in _by_layer(table).items():
        share_E = np.zeros(int(rows["expert"].max()) + 1)
        share_E[rows["expert"]] = rows["share"]
        top_k = round(share_E.sum())
        if top_k < 1 or abs(share_E.sum() - top_k) > 0.01:
            raise ValueError(
                f"{run.folder}/routing/load.parquet: shares of layer {layer} add up to "
                f"{share_E.sum():.3f}, expected top_k; make that run again"
            )
        routers[layer] = Router(top_k, share_E)
    return routers


def read_domains(run: Finished, routers: dict[int, Router]) -> dict[int, Domains]:
    """Return the domains of each layer; layers with fewer than two have none.

    Domains of one document have no interval, so they are left out, and so is unlabelled text.
    """
    columns = ("layer", "expert", "domain", "n_tokens", "share", "share_lo", "share_hi")
    found = {}
    for layer, rows in _by_layer(run.table("routing/domains.parquet", *columns)).items():
        router = routers[layer]
        names = [n for n in sorted(set(rows["domain"])) if n != UNLABELLED]
        shape = len(names), router.share_E.size
        place = {name: number for number, name in enumerate(names)}
        share_CE, error_CE, tokens_CE = np.zeros(shape), np.full(shape, np.nan), np.zeros(shape)
        is_named = rows["domain"] != UNLABELLED
        at = [place[name] for name in rows["domain"][is_named]], rows["expert"][is_named]
        share_CE[at], tokens_CE[at] = rows["share"][is_named], rows["n_tokens"][is_named]
        error_CE[at] = (rows["share_hi"] - rows["share_lo"])[is_named] / (2 * 1.96)
        kept = np.isfinite(error_CE).all(1)
        if kept.sum() > 1:
            weight_C = tokens_CE[kept].sum(1) / tokens_CE[kept].sum()
            names = tuple(name for name, keep in zip(names, kept, strict=True) if keep)
            found[layer] = Domains(names, share_CE[kept], error_CE[kept], weight_C)
    return found


def read_domain_bits(run: Finished) -> dict[int, Bits]:
    """Return I(domain; choice) of each layer over permuted documents, where the run has that table.

    It is made from the documents themselves, so it is better than what `read_domains` lets one say.
    """
    path = "routing/specialisation.parquet"
    if not (run.folder / path).is_file():
        return {}
    names = ("bits_above_chance", "bits_above_chance_lo", "bits_above_chance_hi", "chance_bits")
    found = {}
    for row in run.table(path, "layer", *names).to_pylist():
        numbers = [row[name] for name in names]
        if all(number is not None and np.isfinite(number) for number in numbers):
            found[row["layer"]] = Bits(*(float(number) * np.log(2) for number in numbers))
    return found


def read_tokens(run: Finished) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return, for each layer, how often token types chose experts (V, E) and occurred (V,).

    Types that occur once tell nothing of what two occurrences have in common; they are left out.
    """
    columns = ("layer", "expert", "token_id", "n_tokens", "p_expert_given_token")
    n_experts = {n: router.share_E.size for n, router in read_routers(run).items()}
    found = {}
    for layer, rows in _by_layer(run.table("routing/vocabulary.parquet", *columns)).items():
        types, place = np.unique(rows["token_id"], return_inverse=True)
        n_both_VE, n_V = np.zeros((types.size, n_experts[layer])), np.zeros(types.size)
        n_both_VE[place, rows["expert"]] = rows["n_tokens"]
        n_V[place] = np.round(rows["n_tokens"] / rows["p_expert_given_token"])
        kept = n_V > 1
        found[layer] = n_both_VE[kept], n_V[kept]
    return found


def read_tested(run: Finished, one: Map) -> dict[int, Tested]:
    """Return the tested features of each layer of a map, with one row of experts each.

    What a feature's tested experts leave over of top_k is shared out among the others by load.
    """
    columns = ("layer", "expert", "feature", "p_e_given_f", "p_e", "lor_lo", "lor_hi")
    table = run.table(one.folder.relative_to(run.folder) / "reads.parquet", *columns)
    z = _z(run.config)
    routers = read_routers(run)
    found = {}
    for layer, rows in _by_layer(table).items():
        router = routers[layer]
        features, place = np.unique(rows["feature"], return_inverse=True)
        p_FE = np.full((features.size, router.share_E.size), np.nan)
        error_FE = np.zeros_like(p_FE)
        at = place, rows["expert"]
        p_FE[at] = rows["p_e_given_f"]
        # d p = p (1 - p) d log odds
        error_FE[at] = p_FE[at] * (1 - p_FE[at]) * (rows["lor_hi"] - rows["lor_lo"]) / (2 * z)
        found[layer] = Tested(features, _filled(p_FE, router), np.nan_to_num(error_FE))
    return found


def _filled(p_FE: np.ndarray, router: Router) -> np.ndarray:
    is_open_FE = np.isnan(p_FE)
    left_F = np.maximum(router.top_k - np.nansum(p_FE, 1), 0)
    load_FE = np.where(is_open_FE, router.share_E, 0)
    sum_F = np.maximum(load_FE.sum(1), 1e-12)
    return np.where(is_open_FE, load_FE * (left_F / sum_F)[:, None], p_FE)


def _z(config: dict) -> float:
    """Return how many standard errors the half of a map's interval is."""
    from scipy.stats import norm

    return float(norm.ppf(0.5 + config.get("experts", {}).get("confidence", 0.95) / 2))


def _by_layer(table: pa.Table) -> dict[int, dict[str, np.ndarray]]:
    """Return the columns of each layer's rows."""
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    layers = columns["layer"]
    return {
        int(layer): {name: values[layers == layer] for name, values in columns.items()}
        for layer in np.unique(layers)
    }
