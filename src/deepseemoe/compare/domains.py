"""The rows of `recovery`: scores of experts in domains from a run's tables, and what they recover.

Axes: L layers, E experts with a known domain, C their domains, F features, B draws.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepseemoe.compare.finished import Finished, Map
from deepseemoe.compare.layers import read_domains, read_routers
from deepseemoe.compare.recovery import lines, recover
from deepseemoe.runtime.seeds import generator

Row = dict[str, Any]


class Made(NamedTuple):
    """The experts whose domain the corpus has, and the domains they were made for."""

    experts: np.ndarray
    names: tuple[str, ...]
    own_E: np.ndarray


class Called(NamedTuple):
    """Log odds ratios of features and experts; NaN where a pair was not tested."""

    layers: list[int]
    features: list[int]
    lor_LFE: np.ndarray


def recovery_rows(run: Finished, *, n_draws: int, n_permutations: int, seed: int) -> Iterator[Row]:
    """Yield the rows of one run; a single one with a reason where nothing can be told."""
    missing = {"run": run.label, "source": "domains", "n_experts": 0, "n_units": 0}
    if not run.expert_domains:
        return
    routers = read_routers(run)
    n_experts = {router.share_E.size for router in routers.values()}
    if n_experts != {len(run.expert_domains)}:
        raise ValueError(
            f"{run.label}: expert_domains names {len(run.expert_domains)} experts, the routers "
            f"have {', '.join(map(str, sorted(n_experts)))}"
        )
    by_layer = read_domains(run, routers)
    seen = {name for one in by_layer.values() for name in one.names}
    made = _made(run.expert_domains, seen)
    if made.experts.size < 2:
        told = f"the text has {', '.join(sorted(seen))}" if seen else "documents have no labels"
        yield missing | {"reason": f"experts were made for {', '.join(run.expert_domains)}; {told}"}
        return
    rng = generator(seed, "recovery", run.label)
    options = {"n_permutations": n_permutations, "rng": rng}
    layers = sorted(by_layer)
    scores = [_lift(by_layer[n], routers[n].share_E, made, n_draws, rng) for n in layers]
    draws = np.stack([draw for _, draw in scores], 1)
    found = recover(np.stack([score for score, _ in scores]), made.own_E, draws, **options)
    of = {"run": run.label, "source": "domains", "n_units": len(made.names)}
    yield from _rows(of, made, found, layers)
    for one in run.maps:
        yield from _of_map(run, one, made, n_draws=n_draws, **options)


def _made(expert_domains: tuple[str, ...], seen: set[str]) -> Made:
    experts = [e for e, name in enumerate(expert_domains) if name in seen]
    names = tuple(dict.fromkeys(expert_domains[e] for e in experts))
    own = [names.index(expert_domains[e]) for e in experts]
    return Made(np.array(experts, int), names, np.array(own, int))


def _lift(domains, share_E, made: Made, n_draws: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """Return log2 lift of each expert in each domain (E, C), and drawn again (B, E, C)."""
    shape = made.experts.size, len(made.names)
    score_EC, draws_BEC = np.full(shape, np.nan), np.full((n_draws, *shape), np.nan)
    base_E = np.maximum(share_E[made.experts], 1e-12)
    for place, name in enumerate(made.names):
        if name not in domains.names:
            continue
        row = domains.names.index(name)
        own_E, error_E = (a[row, made.experts] for a in (domains.share_CE, domains.error_CE))
        drawn_BE = own_E + error_E * rng.standard_normal((n_draws, own_E.size))
        # An expert that takes nothing of a domain has a lift of 2^-20, not of minus infinity.
        score_EC[:, place] = np.log2(np.maximum(own_E / base_E, 2**-20))
        draws_BEC[:, :, place] = np.log2(np.maximum(drawn_BE / base_E, 2**-20))
    return score_EC, draws_BEC


def _of_map(run: Finished, one: Map, made: Made, *, n_draws: int, **options: Any) -> Iterator[Row]:
    """Yield what the features of a map that stand for a domain tell of the experts."""
    of = {"run": run.label, "source": "reads", "dictionary": one.dictionary, "window": one.window}
    domain_of = _domain_features(run, one, made.names)
    path = one.folder.relative_to(run.folder) / "reads.parquet"
    table = run.table(path, "layer", "expert", "feature", "lor")
    called = _called(table.filter(pc.field("feature").isin(list(domain_of))), made)
    if not called.layers or len(set(domain_of.values())) < 2:
        reason = "fewer than two of the domains have a feature that stands for one alone"
        yield of | {"n_experts": made.experts.size, "n_units": len(domain_of), "reason": reason}
        return
    domain_F = np.array([domain_of[feature] for feature in called.features])
    n_features, n_domains = domain_F.size, len(made.names)
    score_LEC = _by_domain(called.lor_LFE, domain_F, n_domains)
    drawn = options["rng"].integers(n_features, size=(n_draws, n_features))
    draws = [_by_domain(called.lor_LFE[:, d], domain_F[d], n_domains) for d in drawn]
    found = recover(score_LEC, made.own_E, np.stack(draws), **options)
    yield from _rows(of | {"n_units": n_features}, made, found, called.layers)


def _called(table: pa.Table, made: Made) -> Called:
    """Return the pairs of a map with the experts that were made for a domain as an array."""
    layers, features = (sorted(pc.unique(table[n]).to_pylist()) for n in ("layer", "feature"))
    lor_LFE = np.full((len(layers), len(features), made.experts.size), np.nan)
    own = table.filter(pc.field("expert").isin(made.experts.tolist()))
    at = [
        np.searchsorted(known, own[name].to_numpy())
        for name, known in (("layer", layers), ("feature", features), ("expert", made.experts))
    ]
    lor_LFE[tuple(at)] = own["lor"].to_numpy()
    return Called(layers, features, lor_LFE)


def _domain_features(run: Finished, one: Map, names: tuple[str, ...]) -> dict[int, int]:
    """Return the features whose rule is one domain alone, with its index in `names`."""
    path = f"labels/{one.dictionary}/{one.window}/features.parquet"
    if not (run.folder / path).is_file():
        return {}
    found = {}
    for row in run.table(path, "feature", "kind", "detail").to_pylist():
        if row["kind"] == "domain":
            domains = json.loads(row["detail"]).get("rule", {}).get("domains", [])
            if len(domains) == 1 and domains[0] in names:
                found[row["feature"]] = names.index(domains[0])
    return found


def _by_domain(lor_LFE: np.ndarray, domain_F: np.ndarray, n_domains: int) -> np.ndarray:
    """Return the mean log odds ratio of each domain's features with each expert (L, E, C)."""
    means = np.full((lor_LFE.shape[0], lor_LFE.shape[2], n_domains), np.nan)
    for domain in range(n_domains):
        own = lor_LFE[:, domain_F == domain]
        n_known = np.isfinite(own).sum(1)
        np.divide(np.nansum(own, 1), n_known, means[:, :, domain], where=n_known > 0)
    return means


def _rows(of: Row, made: Made, found, layers: list[int]) -> Iterator[Row]:
    for measure, recovered in found.items():
        known = {"measure": measure, "n_experts": made.experts.size, "reason": ""}
        known["n_permutations"] = recovered.n_permutations
        for layer, numbers in lines(recovered, layers):
            yield of | known | numbers | {"layer": layer}
