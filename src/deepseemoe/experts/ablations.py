"""What interventions on experts and routers do to the loss, by document, with paired intervals.

Three analyses of DeepSeekMoE (Dai et al. 2024, section 4.5) come ready made: the share of its best
experts that each token does without (Fig. 4; the faster the loss rises, the less redundant experts
are), the shared experts off and one more routed expert in their place (1.808 -> 2.414 there), and
other numbers of active experts (Fig. 5).

Clean and changed model see the same tokens, so a difference is of the same predictions. Documents
are what is drawn again for the interval: tokens of one are no independent evidence.

Axes: S sequences, N sequence length, T = S * N tokens, V vocabulary, U documents, B draws.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.runtime.seeds import generator

Intervention = Callable[[MoeModel], AbstractContextManager[None]]
"""Begins an intervention, anew for each batch: `lambda model: model.drop({8: [17]})`."""

CHUNK_TOKENS = 512
"""Rows of log-probabilities at once: 8 MB at a vocabulary of 4096."""
DRAWS_AT_ONCE = 64
RATIOS = (1 / 16, 2 / 16, 3 / 16, 4 / 16)
"""The shares that Fig. 4 masks, besides none."""


class DocumentBatch(NamedTuple):
    """Some sequences, and the document of each of their tokens, (S, N)."""

    tokens: TokenBatch
    doc_ids_SN: NDArray


class AblationLosses(NamedTuple):
    """Sums of the loss (nats) over the predicted tokens of each document."""

    documents_U: NDArray[np.int64]
    n_targets_U: NDArray[np.int64]
    """How many tokens were predicted: all but the first of each segment."""
    clean_U: NDArray[np.float64]
    changed: Mapping[str, NDArray[np.float64]]
    """The same under each intervention."""


class LossDifference(NamedTuple):
    """Mean losses a token, nats, and their difference with its interval over documents."""

    name: str
    clean: float
    changed: float
    difference: float
    lo: float
    hi: float
    n_documents: int
    n_targets: int


def disable_top_ratio(ratio: float, *, layers: Sequence[int] | None = None) -> Intervention:
    """Return the mask of the best `ratio` of each token's experts, at all layers or some."""
    return lambda model: model.mask_top(dict.fromkeys(_layers(model, layers), ratio))


def active_k(k: int, *, layers: Sequence[int] | None = None) -> Intervention:
    """Return the choice of `k` routed experts a token, at all layers or some."""
    return lambda model: model.active_k(dict.fromkeys(_layers(model, layers), k))


def shared_off_plus_one(*, layers: Sequence[int] | None = None) -> Intervention:
    """Return the swap of shared experts for one more routed expert, at all layers or some.

    One, whatever the number of shared experts, as in the paper, whose model has one.
    """

    def begin(model: MoeModel) -> AbstractContextManager[None]:
        return together(
            lambda model: model.without_shared(_layers(model, layers)),
            active_k(model.top_k + 1, layers=layers),
        )(model)

    return begin


def together(*interventions: Intervention) -> Intervention:
    """Return several interventions as one."""

    @contextmanager
    def begin(model: MoeModel) -> Iterator[None]:
        with ExitStack() as stack:
            for one in interventions:
                stack.enter_context(one(model))
            yield

    return begin


def deepseekmoe_analyses(
    model: MoeModel, *, ratios: Sequence[float] = RATIOS
) -> dict[str, Intervention]:
    """Return the analyses of section 4.5 that a model allows, by name.

    Ratios that are too small for one of its experts, or leave a token too few, are left out, and
    the shared experts where it has none.
    """
    asked = {f"disable_top_ratio={ratio:g}": disable_top_ratio(ratio) for ratio in ratios}
    asked |= {f"active_k={k}": active_k(k) for k in range(1, model.top_k + 1)}
    asked |= {"shared_off_plus_one": shared_off_plus_one()}
    return {name: one for name, one in asked.items() if _is_possible(model, one)}


@torch.no_grad()
def ablation_losses(
    model: MoeModel,
    batches: Iterable[DocumentBatch],
    interventions: Mapping[str, Intervention],
) -> AblationLosses:
    """Return the losses of each document, clean and under each intervention.

    Every batch is read once and run 1 + len(interventions) times. The first token of a segment is
    not predicted. Raises ValueError where an intervention is not possible, before any model runs,
    and where no token is predicted.
    """
    for one in interventions.values():
        with one(model):
            pass
    runs = {None: lambda model: nullcontext(), **interventions}
    documents, losses = [], {name: [] for name in runs}
    for batch in batches:
        places_T = _predicted(batch.tokens)
        documents.append(np.asarray(batch.doc_ids_SN, np.int64).reshape(-1)[places_T.numpy()])
        for name, begin in runs.items():
            with begin(model):
                losses[name].append(_losses(model, batch.tokens, places_T))
    ids_T = np.concatenate([*documents, np.zeros(0, np.int64)])
    if not len(ids_T):
        raise ValueError("no token is predicted in these batches; give segments of 2 tokens")
    documents_U, units_T = np.unique(ids_T, return_inverse=True)
    sums = {name: np.bincount(units_T, np.concatenate(parts)) for name, parts in losses.items()}
    return AblationLosses(documents_U, np.bincount(units_T), sums.pop(None), sums)


def differences(
    losses: AblationLosses, *, n_bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0
) -> list[LossDifference]:
    """Return the loss difference of each intervention, with percentiles over drawn documents.

    All share their draws. Raises ValueError where there is only one document.
    """
    n_documents = len(losses.documents_U)
    if n_documents < 2:
        raise ValueError("an interval over documents needs 2 of them, and there is 1; add text")
    added = {name: sums_U - losses.clean_U for name, sums_U in losses.changed.items()}
    drawn = _drawn(np.stack([losses.n_targets_U, *added.values()]), n_bootstrap, seed)
    edges = [(1 - confidence) / 2, (1 + confidence) / 2]
    n_targets = int(losses.n_targets_U.sum())
    clean = float(losses.clean_U.sum()) / n_targets
    rows = []
    for (name, added_U), drawn_B in zip(added.items(), drawn[1:], strict=True):
        lo, hi = np.quantile(drawn_B / drawn[0], edges)
        difference = float(added_U.sum()) / n_targets
        rows.append(
            LossDifference(
                name, clean, clean + difference, difference, float(lo), float(hi),
                n_documents, n_targets,
            )
        )  # fmt: skip
    return rows


def _drawn(sums_QU: NDArray, n_bootstrap: int, seed: int) -> NDArray[np.float64]:
    """Return sums over documents drawn with replacement, (Q, B)."""
    n_documents, rng = sums_QU.shape[1], generator(seed, "experts", "ablations")
    share_U, pieces = np.full(n_documents, 1 / n_documents), []
    for first in range(0, n_bootstrap, DRAWS_AT_ONCE):
        n_draws = min(DRAWS_AT_ONCE, n_bootstrap - first)
        pieces.append(sums_QU @ rng.multinomial(n_documents, share_U, n_draws).T)
    return np.concatenate(pieces, axis=1)


def _predicted(tokens: TokenBatch) -> torch.Tensor:
    """Return the places (flat) whose next token is in the same segment."""
    return torch.nonzero(tokens.positions.cpu().flatten().roll(-1) != 0).squeeze(1)


def _losses(model: MoeModel, tokens: TokenBatch, places_T: torch.Tensor) -> NDArray[np.float64]:
    """Return the loss of the next token at each place, nats."""
    logits_TV = model.logits(tokens).flatten(0, 1)
    ids_T = tokens.token_ids.flatten().to(logits_TV.device)
    pieces = [
        torch.nn.functional.cross_entropy(
            logits_TV[rows].float(), ids_T[rows + 1], reduction="none"
        )
        for rows in places_T.to(logits_TV.device).split(CHUNK_TOKENS)
    ]
    return torch.cat(pieces).double().cpu().numpy() if pieces else np.zeros(0)


def _layers(model: MoeModel, layers: Sequence[int] | None) -> tuple[int, ...]:
    return model.moe_layers if layers is None else tuple(layers)


def _is_possible(model: MoeModel, intervention: Intervention) -> bool:
    try:
        with intervention(model):
            return True
    except ValueError:
        return False
