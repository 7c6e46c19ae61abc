"""Planted worlds for predictors: what routing is a function of is known.

Axes: T tokens, D documents, F features, L routing layers, E experts, K top_k.
"""

import numpy as np
import scipy.sparse as sp
from planted import World, choose

from deepseemoe.config import PredictionConfig
from deepseemoe.prediction.designs import scaled
from deepseemoe.prediction.inputs import Inputs
from deepseemoe.prediction.measures import Draws
from deepseemoe.prediction.sample import FIT, TEST, Sample, split
from deepseemoe.prediction.scoring import Router
from deepseemoe.prediction.table import rows_of

PENALTIES = PredictionConfig().penalties


def token_world(
    seed, *, n_documents=80, n_types=120, n_features=40, n_experts=8, beyond=0.0, noise=0.5
) -> World:
    """Return a world whose router reads the token, noise, and `beyond` times what features add.

    Half of the features fire on sets of tokens, the other half on spans that know nothing of them.
    """
    rng = np.random.default_rng([seed, 7])
    document_T = np.repeat(np.arange(n_documents), rng.integers(40, 120, n_documents))
    share_V = 1 / (np.arange(n_types) + 4.0)
    token_T = rng.choice(n_types, document_T.size, p=share_V / share_V.sum())
    fires_TF = np.zeros((document_T.size, n_features), bool)
    for feature in range(n_features):
        if feature < n_features // 2:
            fires_TF[:, feature] = np.isin(token_T, rng.integers(0, n_types, 8))
            fires_TF[:, feature] &= rng.random(document_T.size) < 0.9
        else:
            spans = rng.random(document_T.size // 6 + 1) < 0.25
            fires_TF[:, feature] = np.repeat(spans, 6)[: document_T.size]
    logits_TE = 2 * rng.normal(size=(n_types, n_experts))[token_T]
    reads_FE = rng.normal(size=(n_features, n_experts))
    reads_FE[: n_features // 2] = 0
    logits_TE += beyond * fires_TF @ reads_FE + noise * rng.normal(size=logits_TE.shape)
    experts_TLK, weights_TLK = choose(logits_TE[:, None], 2)
    values_TF = sp.csr_array(fires_TF * rng.lognormal(0, 0.3, fires_TF.shape), dtype=np.float32)
    domain_D = np.zeros(n_documents, int)
    return World(document_T, token_T, domain_D, values_TF, experts_TLK, weights_TLK, n_experts)


def sample_of(world: World, seed: int = 0) -> Sample:
    """Return all documents of a world as a sample."""
    ids_D, lengths_D = np.unique(world.document_T, return_counts=True)
    _, part_D = split(ids_D, lengths_D, n_tokens=world.document_T.size, seed=seed)
    opens_T = np.diff(world.document_T, prepend=-1) != 0
    before_T = np.where(opens_T, -1, np.append(-1, world.token_T[:-1]))
    return Sample(
        np.searchsorted(ids_D, world.document_T), part_D, world.token_T, before_T,
        world.features_TF, world.experts_TLK, world.n_experts,
    )  # fmt: skip


def score(world: World, seed: int = 0, n_draws: int = 200) -> dict[str, dict]:
    """Return the rows of all experts by predictor; features are the only design."""
    sample = sample_of(world, seed)
    router = Router(sample, 0, penalties=PENALTIES, device="cpu", seed=seed)
    features = Inputs(scaled(sample.features_TF, sample.rows(FIT)))
    predictions = router.predictions([("features", features)])
    n_tested = int((sample.part_D == TEST).sum())
    draws = Draws.of(n_tested, n_draws=n_draws, confidence=0.95, seed=seed)
    rows = rows_of(1, router, predictions, draws, sees_later=False)
    return {row["predictor"]: row for row in rows if row["expert"] is None}
