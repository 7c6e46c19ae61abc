"""Rows of the tables from the counts of a layer, by OLMoE's definitions (arXiv 2409.02060, §5).

Departure: all also have a lift or a line of chance, so that experts of different load and routers
of different top k can be set side by side.

Axes: C domains, B bootstrap draws (the first is the data), V kept token types, E experts.
"""

import numpy as np

from deepseemoe.routing.bootstrap import interval_of, weighted_sums
from deepseemoe.routing.coactivation import coactivation_of
from deepseemoe.routing.load import Load, load_of
from deepseemoe.routing.tally import Tally, TokenTally
from deepseemoe.routing.text import Text, Types
from deepseemoe.routing.vocabulary import measure

Rows = dict[str, np.ndarray]

NORMAL_95 = 1.96


def load_rows(layer: int, tally: Tally, text: Text, *, top_k: int) -> Rows:
    """Return the load of each expert of a layer."""
    found = _load(tally, text, top_k)
    n_experts = found.share_E.size
    return {
        "layer": np.full(n_experts, layer),
        "expert": np.arange(n_experts),
        "n_tokens": found.n_tokens_E,
        "share": found.share_E,
        "share_lo": found.share_lo_E,
        "share_hi": found.share_hi_E,
        "weight_share": found.weight_share_E,
        "load": found.load_E,
    }


def load_layer_rows(layer: int, tally: Tally, text: Text, *, top_k: int) -> Rows:
    """Return how evenly the router of a layer spreads tokens, and how sharply it decides."""
    found = _load(tally, text, top_k)
    n_experts = found.share_E.size
    rows = {
        "layer": layer, "n_tokens": text.n_tokens, "n_experts": n_experts, "top_k": top_k,
        "load_bits": found.entropy, "load_bits_lo": found.entropy_lo,
        "load_bits_hi": found.entropy_hi, "chance_load_bits": np.log2(n_experts),
        "effective_experts": found.effective,
    }  # fmt: skip
    n_tokens_B = weighted_sums(text.tokens_D[:, None], text.draws_DB)[:, 0]
    for name, bits_D in (("gate", tally.gate_bits_D), ("router", tally.router_bits_D)):
        known = np.full(text.tokens_D.shape, np.nan) if bits_D is None else bits_D
        mean_B = weighted_sums(known[:, None], text.draws_DB)[:, 0] / _positive(n_tokens_B)
        low, high = interval_of(mean_B)
        rows |= {f"{name}_bits": mean_B[0], f"{name}_bits_lo": low, f"{name}_bits_hi": high}
    rows["max_gate_bits"] = np.log2(top_k)
    rows["reason"] = "stores hold no router_logits" if tally.router_bits_D is None else ""
    return {name: np.array([value]) for name, value in rows.items()}


def coactivation_rows(layer: int, tally: Tally, text: Text, *, seed: int) -> Rows:
    """Return all ordered pairs of experts that any token chose, whether together or not."""
    found = coactivation_of(tally.pairs_GEE, text.tokens_G, seed=seed)
    a, b = np.nonzero(~np.isnan(found.lift_EE))
    return {
        "layer": np.full(a.size, layer),
        "expert_a": a,
        "expert_b": b,
        "n_tokens": found.n_tokens_EE[a, b],
        "p_b_given_a": found.p_b_given_a_EE[a, b],
        "lift": found.lift_EE[a, b],
        "lift_lo": found.lift_lo_EE[a, b],
        "lift_hi": found.lift_hi_EE[a, b],
        "chance_lift": found.chance_lift_EE[a, b],
        "excess": found.excess_EE[a, b],
    }


def vocabulary_rows(
    layer: int, counts_VE: np.ndarray, types: Types, text: Text, chosen_E: np.ndarray
) -> Rows:
    """Return the kept tokens that choose each expert, and how often they do."""
    expert, place = np.nonzero(counts_VE.T)
    n_both = counts_VE[place, expert]
    p_expert = n_both / types.occurrences_V[place]
    names = np.array([text.token_texts[token] for token in types.kept_V], dtype=object)
    return {
        "layer": np.full(place.size, layer),
        "expert": expert,
        "token_id": types.kept_V[place],
        "token": names[place],
        "n_tokens": n_both,
        "p_expert_given_token": p_expert,
        "lift": p_expert * text.n_tokens / chosen_E[expert],
    }


def vocabulary_layer_rows(
    layer: int, side: str, found: TokenTally, types: Types, *, top_k: int
) -> Rows:
    """Return how much the experts of a layer tell of a token, and what shuffled tokens would."""
    rows = {
        "layer": layer,
        "side": side,
        "n_types": types.kept_V.size,
        "n_tokens": types.occurrences_V.sum(),
    }
    is_known, values = types.kept_V.size > 0, measure(found.counts_VE, top_k)
    for place, name in enumerate(values._fields):
        chance = np.mean([one[place] for one in found.shuffles])
        # A draw repeats documents, which moves its mean but hardly its spread.
        error = np.std([one[place] for one in found.draws], ddof=1) if found.draws else np.nan
        above = values[place] - chance
        rows |= {
            name: values[place],
            f"chance_{name}": chance,
            f"{name}_above_chance": above,
            f"{name}_above_chance_lo": above - NORMAL_95 * error,
            f"{name}_above_chance_hi": above + NORMAL_95 * error,
        }
    rows["reason"] = "" if is_known else "no token occurs min_token_count times"
    return {name: np.array([value]) for name, value in rows.items()}


def domain_rows(layer: int, tally: Tally, text: Text) -> Rows:
    """Return the share of each domain's tokens that choose each expert, with its interval."""
    found = text.by_domain(tally.counts_DE)
    counts_CBE, tokens_CB = found.sums(), found.tokens()
    share_CBE = counts_CBE / _positive(tokens_CB)[..., None]
    overall_E = tally.counts_DE.sum(0) / text.n_tokens
    here = np.flatnonzero(tokens_CB[:, 0] > 0)
    expert, place = (grid.ravel() for grid in np.indices((overall_E.size, here.size)))
    domain = here[place]
    share, overall = share_CBE[domain, 0, expert], overall_E[expert]
    low_CE, high_CE = np.full((2, *share_CBE[:, 0].shape), np.nan)
    n_documents_C = np.bincount(text.domain_D, minlength=len(text.domains))
    for one in np.flatnonzero(n_documents_C > 1):
        is_drawn = tokens_CB[one] > 0
        low_CE[one], high_CE[one] = interval_of(share_CBE[one, is_drawn])
    return {
        "layer": np.full(expert.size, layer),
        "expert": expert,
        "domain": np.array(text.domains, dtype=object)[domain],
        "n_tokens": counts_CBE[domain, 0, expert].astype(np.int64),
        "share": share,
        "lift": np.divide(share, overall, np.full(share.size, np.nan), where=overall > 0),
        "share_lo": low_CE[domain, expert],
        "share_hi": high_CE[domain, expert],
    }


def _load(tally: Tally, text: Text, top_k: int) -> Load:
    weight_E = tally.weights_DE.sum(0)
    return load_of(tally.counts_DE, text.tokens_D, text.draws_DB, weight_E=weight_E, top_k=top_k)


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)
