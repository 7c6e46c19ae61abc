"""The four tables from the counts of a layer, by the definitions of OLMoE (arXiv 2409.02060, §5).

Co-activation is the paper's equation 6 over all pairs of a token's top k; the code released with it
counts pairs of neighbouring ranks alone. Vocabulary is equation 8 on input tokens, domains equation
7. Departure: each also has a lift, so that experts of different load and routers of different top k
can be set side by side.

Axes: C domains, B bootstrap draws (the first is the data), V kept token types, E experts.
"""

import numpy as np

from deepseemoe.routing.tally import Tally, Text

Rows = dict[str, np.ndarray]

INTERVAL = (0.025, 0.975)


def load_rows(layer: int, tally: Tally, text: Text, *, top_k: int) -> Rows:
    """Return the load of each expert of a layer."""
    chosen_E = tally.both_EE.diagonal()
    n_experts = chosen_E.size
    share_E = chosen_E / text.n_tokens
    return {
        "layer": np.full(n_experts, layer),
        "expert": np.arange(n_experts),
        "n_tokens": chosen_E,
        "share": share_E,
        "weight_share": tally.weight_E / tally.weight_E.sum(),
        "load": share_E * n_experts / top_k,
    }


def coactivation_rows(layer: int, tally: Tally, text: Text) -> Rows:
    """Return all ordered pairs of experts of a layer that are both chosen somewhere."""
    chosen_E = tally.both_EE.diagonal()
    is_pair = np.outer(chosen_E > 0, chosen_E > 0) & ~np.eye(chosen_E.size, dtype=bool)
    a, b = np.nonzero(is_pair)
    p_b_given_a = tally.both_EE[a, b] / chosen_E[a]
    return {
        "layer": np.full(a.size, layer),
        "expert_a": a,
        "expert_b": b,
        "n_tokens": tally.both_EE[a, b],
        "p_b_given_a": p_b_given_a,
        "lift": p_b_given_a * text.n_tokens / chosen_E[b],
    }


def vocabulary_rows(layer: int, tally: Tally, text: Text) -> Rows:
    """Return the kept tokens that choose each expert, and how often they do."""
    expert, place = np.nonzero(tally.tokens_VE.T)
    n_both = tally.tokens_VE[place, expert]
    p_expert = n_both / text.occurrences_V[place]
    names = np.array([text.token_texts[token] for token in text.kept_tokens_V], dtype=object)
    return {
        "layer": np.full(place.size, layer),
        "expert": expert,
        "token_id": text.kept_tokens_V[place],
        "token": names[place],
        "n_tokens": n_both,
        "p_expert_given_token": p_expert,
        "lift": p_expert * text.n_tokens / tally.both_EE.diagonal()[expert],
    }


def domain_rows(layer: int, tally: Tally, text: Text) -> Rows:
    """Return the share of each domain's tokens that choose each expert, with its interval."""
    tokens_CB = text.tokens_CB
    share_CBE = tally.domains_CBE / np.where(tokens_CB == 0, np.nan, tokens_CB)[..., None]
    overall_E = tally.both_EE.diagonal() / text.n_tokens
    here = np.flatnonzero(tokens_CB[:, 0] > 0)
    expert, place = (grid.ravel() for grid in np.indices((overall_E.size, here.size)))
    domain = here[place]
    share, overall = share_CBE[domain, 0, expert], overall_E[expert]
    low_CE, high_CE = np.full((2, *share_CBE[:, 0].shape), np.nan)
    for one in np.flatnonzero(text.documents_C > 1):
        low_CE[one], high_CE[one] = np.nanquantile(share_CBE[one, 1:], INTERVAL, axis=0)
    return {
        "layer": np.full(expert.size, layer),
        "expert": expert,
        "domain": np.array(text.domains, dtype=object)[domain],
        "n_tokens": tally.domains_CBE[domain, 0, expert].astype(np.int64),
        "share": share,
        "lift": np.divide(share, overall, np.full(share.size, np.nan), where=overall > 0),
        "share_lo": low_CE[domain, expert],
        "share_hi": high_CE[domain, expert],
    }
