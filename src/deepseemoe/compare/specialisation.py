"""How specialised the routers of a run are, layer by layer, from its tables alone.

    load_concentration        experts that lie idle
    domain_information        I(domain; choice) over the most it could be; domains by their tokens
    domain_divergence         the same with every domain counting as much: a normalised
                              Jensen-Shannon divergence, which another mix of text leaves as it is
    token_concentration       experts that knowing the token rules out
    feature_concentration     experts that a firing feature rules out, mean over mapped features

Axes: C domains, V token types, F features, E experts, B draws. Variances of shares come from the
intervals of the tables, so from documents drawn again; the tables hold no documents themselves.
Where a run has routing/specialisation.parquet, domain_information is over permuted documents.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from deepseemoe.compare import measures
from deepseemoe.compare.finished import Finished
from deepseemoe.compare.layers import (
    Bits,
    Domains,
    Router,
    Tested,
    read_domain_bits,
    read_domains,
    read_routers,
    read_tested,
    read_tokens,
)
from deepseemoe.runtime.seeds import generator

Row = dict[str, Any]
Key = tuple[str, str | None, str | None]
"""Measure, and the dictionary and window of those over features."""

NO_DOMAINS = "the documents carry no domain labels, or those of one domain only"


class Estimate(NamedTuple):
    """A value with chance taken off, its interval, the chance, and over how many units."""

    value: float | None
    lo: float | None = None
    hi: float | None = None
    chance: float | None = None
    n_units: int = 0
    reason: str = ""


def specialisation_rows(run: Finished, *, n_draws: int, seed: int) -> list[Row]:
    """Return the rows of one run: each layer, and the mean over layers behind them."""
    routers = read_routers(run)
    domains, tokens = read_domains(run, routers), read_tokens(run)
    bits = read_domain_bits(run)
    rng = generator(seed, "compare", run.label)
    found: list[tuple[Key, int, Estimate]] = []
    for layer, router in routers.items():
        found.append((("load_concentration", None, None), layer, _load(router)))
        of_domains = domain_estimates(router, domains.get(layer), n_draws=n_draws, rng=rng)
        if layer in bits and layer in domains:
            of_domains["domain_information"] = _permuted(router, domains[layer], bits[layer])
        found += [((name, None, None), layer, one) for name, one in of_domains.items()]
        if layer in tokens:
            one = token_estimate(router, *tokens[layer], n_draws=n_draws, rng=rng)
            found.append((("token_concentration", None, None), layer, one))
    for one in run.maps:
        for layer, tested in read_tested(run, one).items():
            key = "feature_concentration", one.dictionary, one.window
            found.append((key, layer, feature_estimate(routers[layer], tested)))
    return list(_rows(run.label, found))


def domain_estimates(
    router: Router, domains: Domains | None, *, n_draws: int, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Return what a choice tells of the domain, with domains by tokens and all counting alike."""
    if domains is None:
        missing = Estimate(None, reason=NO_DOMAINS)
        return {"domain_information": missing, "domain_divergence": missing}
    even_C = np.full(domains.weight_C.size, 1 / domains.weight_C.size)
    weights = {"domain_information": domains.weight_C, "domain_divergence": even_C}
    q_CE, error_CE = domains.share_CE / router.top_k, domains.error_CE / router.top_k
    draws_BCE = q_CE + error_CE * rng.standard_normal((n_draws, *q_CE.shape))
    draws_BCE = np.maximum(draws_BCE, 0)
    draws_BCE /= draws_BCE.sum(-1, keepdims=True)
    found = {}
    for name, weight_C in weights.items():
        most = measures.ceiling(weight_C, router.share_E.size, router.top_k)
        plain = measures.information(q_CE, weight_C)
        noise = measures.information_noise(q_CE, error_CE**2, weight_C)
        draws_B = measures.information(draws_BCE, weight_C)
        ends = np.quantile(draws_B - draws_B.mean(), (0.025, 0.975))
        lo, value, hi = ((plain - noise + d) / most for d in (ends[0], 0.0, ends[1]))
        found[name] = Estimate(float(value), float(lo), float(hi), noise / most, weight_C.size)
    return found


def _permuted(router: Router, domains: Domains, bits: Bits) -> Estimate:
    """Return the information of the domain over permuted documents as a share of what could be."""
    most = measures.ceiling(domains.weight_C, router.share_E.size, router.top_k)
    return Estimate(*(part / most for part in bits), domains.weight_C.size)


def token_estimate(
    router: Router,
    n_both_VE: np.ndarray,
    n_V: np.ndarray,
    *,
    n_draws: int,
    rng: np.random.Generator,
) -> Estimate:
    """Return the share of experts that a token rules out; token types are drawn again."""
    load_E = n_both_VE.sum(0) / n_both_VE.sum()
    order2_V = measures.token_order2(n_both_VE, n_V, load_E, router.top_k)
    counts_BV = rng.multinomial(n_V.size, np.full(n_V.size, 1 / n_V.size), n_draws)
    draws_B = (counts_BV @ (n_V * order2_V)) / (counts_BV @ n_V)
    value = measures.concentration(np.array((n_V * order2_V).sum() / n_V.sum()))
    lo, hi = np.quantile(measures.concentration(draws_B), (0.025, 0.975))
    return Estimate(float(value), float(lo), float(hi), None, n_V.size)


def feature_estimate(router: Router, tested: Tested) -> Estimate:
    """Return the share of experts that a firing feature rules out, mean over features.

    The error of P(expert | fires) is that of its log odds ratio, which counts the errors of silent
    tokens too, so noise is rather taken off too much than too little.
    """
    load_E = router.share_E / router.top_k
    q_FE, variance_FE = tested.p_FE / router.top_k, (tested.error_FE / router.top_k) ** 2
    value_F = measures.concentration(measures.order2(q_FE, variance_FE, load_E))
    if not value_F.size:
        return Estimate(None, reason="no feature has a tested pair in this layer")
    plain_F = measures.concentration(measures.order2(q_FE, 0 * variance_FE, load_E))
    value = float(value_F.mean())
    chance = float(plain_F.mean()) - value
    if value_F.size < 2:
        return Estimate(value, None, None, chance, 1)
    half = 1.96 * float(value_F.std(ddof=1) / np.sqrt(value_F.size))
    return Estimate(value, value - half, value + half, chance, value_F.size)


def _load(router: Router) -> Estimate:
    value = measures.load_concentration(router.share_E / router.top_k)
    return Estimate(value, n_units=router.share_E.size)


def _rows(label: str, found: list[tuple[Key, int, Estimate]]) -> Iterator[Row]:
    """Yield every estimate as a row, and the means over the layers of what belongs together."""
    groups: dict[Key, list[Estimate]] = {}
    for key, layer, one in found:
        yield _row(label, key, layer, one)
        groups.setdefault(key, []).append(one)
    for key, estimates in groups.items():
        yield _row(label, key, None, mean_of(estimates))


def mean_of(estimates: list[Estimate]) -> Estimate:
    """Return the mean over layers; its interval is that of layers that err together.

    Layers read the same documents, so their errors do not average out.
    """
    known = [one for one in estimates if one.value is not None]
    if not known:
        return estimates[0]
    columns = zip(*((one.value, one.lo, one.hi, one.chance) for one in known), strict=True)
    means = [None if None in column else float(np.mean(column)) for column in columns]
    return Estimate(*means, n_units=round(np.mean([one.n_units for one in known])))


def _row(label: str, key: Key, layer: int | None, one: Estimate) -> Row:
    name, dictionary, window = key
    named = {"run": label, "measure": name, "dictionary": dictionary, "window": window}
    return named | {"layer": layer} | one._asdict()
