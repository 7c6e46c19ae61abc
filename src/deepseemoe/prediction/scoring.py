"""All predictors of one router, fitted, chosen and tested on a sample's three parts.

Axes: T tokens, E experts.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from deepseemoe.prediction import counts
from deepseemoe.prediction.counts import Grouped, smoothed, to_logits
from deepseemoe.prediction.inputs import Inputs
from deepseemoe.prediction.partners import NO_PARTNER, partners
from deepseemoe.prediction.probes import Examples, as_tensor, fit_best
from deepseemoe.prediction.sample import CHOOSE, FIT, TEST, Sample

BASE, UNIGRAM, BIGRAM = "base", "unigram", "bigram"
WITH_TOKEN = "unigram+features"
OWN, SHUFFLED = "unigram+own", "unigram+shuffled"
"""Features of each token itself, and of the same token elsewhere, on tokens that have both."""


class Prediction(NamedTuple):
    """Log odds of the test tokens `rows` (places in the sample), and what they were made from."""

    logits_TE: np.ndarray
    rows: np.ndarray
    n_inputs: int
    strength: float
    """Penalty of a probe, smoothing of counts; infinite where nothing was worth adding."""


class Known(NamedTuple):
    """Log odds of all tokens of the sample, those of the fit part without their own document."""

    logits_TE: np.ndarray
    n_groups: int
    strength: float

    def tested(self, rows: np.ndarray) -> Prediction:
        """Return the prediction of the test tokens."""
        return Prediction(self.logits_TE[rows], rows, self.n_groups, self.strength)


class Router:
    """One router's decisions on a sample, and the predictions of them."""

    def __init__(
        self, sample: Sample, place: int, *, penalties: Sequence[float], device: str, seed: int
    ) -> None:
        """`place` is that of the router's layer in the sample; `penalties` of probes fall."""
        self.sample, self._device, self._seed = sample, device, seed
        self._penalties = penalties
        self.chosen_TE = sample.chosen(place)
        self.top_k = sample.experts_TLK.shape[2]
        self.rows = {part: sample.rows(part) for part in (FIT, CHOOSE, TEST)}
        self.is_used_E = self.chosen_TE[self.rows[FIT]].sum(0) > 0
        self.base_E = counts.base_rate(self.chosen_TE[self.rows[FIT]])

    def predictions(self, inputs: Iterable[tuple[str, Inputs]]) -> dict[str, Prediction]:
        """Return every predictor's log odds of the test tokens, by name."""
        test, shape = self.rows[TEST], self.chosen_TE.shape
        base_TE = np.broadcast_to(self.base_E, shape)
        unigram = self.grouped(self.sample.token_ids_T, base_TE)
        size = 2 + int(self.sample.token_ids_T.max())
        pairs_T = (self.sample.before_T + 1) * size + self.sample.token_ids_T
        bigram = self.grouped(pairs_T, _p(unigram.logits_TE))
        found = {
            BASE: Prediction(to_logits(base_TE[test]), test, 0, np.inf),
            UNIGRAM: unigram.tested(test),
            BIGRAM: bigram.tested(test),
        }
        blank_TE = to_logits(base_TE)
        for name, one in inputs:
            found[name] = self.probed(one, blank_TE, self.rows)
            if name == "features":
                found |= self.beyond(one, unigram.logits_TE)
        return found

    def grouped(self, groups_T: np.ndarray, coarser_TE: np.ndarray) -> Known:
        """Return predictions by groups of tokens, drawn to a coarser prediction where rare."""
        fit, choose = self.rows[FIT], self.rows[CHOOSE]
        held = Grouped.of(groups_T[fit], self.sample.documents_T[fit], self.chosen_TE[fit])
        counted = held.counts.at(groups_T)
        strength = counts.best_strength(
            tuple(part[choose] for part in counted), coarser_TE[choose], self.chosen_TE[choose]
        )
        for every, without_own in zip(counted, held.fit, strict=True):
            every[fit] = without_own
        logits_TE = to_logits(smoothed(counted, coarser_TE, strength))
        return Known(logits_TE, held.counts.groups_G.size, strength)

    def beyond(self, features: Inputs, unigram_TE: np.ndarray) -> dict[str, Prediction]:
        """Return what features add to the token, and what features of the same token elsewhere do.

        For the comparison both are fitted and tested on the tokens that have a partner.
        """
        found = {WITH_TOKEN: self.probed(features, unigram_TE, self.rows)}
        partner = {part: self._partners(rows) for part, rows in self.rows.items()}
        own = {p: self.rows[p][partner[p] != NO_PARTNER] for p in partner}
        if all(rows.size for rows in own.values()):
            read = {p: self.rows[p][partner[p][partner[p] != NO_PARTNER]] for p in partner}
            found[OWN] = self.probed(features, unigram_TE, own)
            found[SHUFFLED] = self.probed(features, unigram_TE, own, read=read)
        return found

    def probed(
        self,
        inputs: Inputs,
        offset_TE: np.ndarray,
        rows: dict[int, np.ndarray],
        *,
        read: dict[int, np.ndarray] | None = None,
    ) -> Prediction:
        """Return the best probe's log odds; tokens `rows` read the inputs of tokens `read`."""
        used, logits_TE = np.flatnonzero(self.is_used_E), offset_TE[rows[TEST]].copy()
        examples = {}
        for part, own in rows.items():
            design = inputs.design(own if read is None else read[part])
            tables = (self.chosen_TE[np.ix_(own, used)], offset_TE[np.ix_(own, used)])
            tensors = (as_tensor(table, self._device) for table in tables)
            examples[part] = Examples(design, *tensors, self.sample.documents_T[own])
        probe = fit_best(examples[FIT], examples[CHOOSE], penalties=self._penalties)
        tested = examples[TEST]
        logits_TE[:, used] = probe.logits(tested.design, tested.offset_TE).cpu().numpy()
        return Prediction(logits_TE, rows[TEST], inputs.n_inputs, probe.penalty)

    def _partners(self, rows: np.ndarray) -> np.ndarray:
        sample = self.sample
        return partners(sample.token_ids_T[rows], sample.documents_T[rows], seed=self._seed)


def _p(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))
