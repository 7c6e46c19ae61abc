"""What a map of reads tested and found, why other pairs were not tested, how its null behaves."""

from typing import Any

import numpy as np

from deepseemoe.config import ExpertsConfig
from deepseemoe.experts.discovery import SURE
from deepseemoe.experts.evidence import Evidence
from deepseemoe.experts.join import Join
from deepseemoe.experts.support import Firings
from deepseemoe.experts.tiers import Rows


class Summary:
    """Adds up layers; `told` is what summary.json holds."""

    def __init__(self, config: ExpertsConfig, joined: Join, firings: Firings):
        self._config, self._joined = config, joined
        self._n_rare = int((firings.tokens_F < config.min_tokens).sum())
        is_wide = firings.documents_F >= config.min_documents
        self._n_narrow = int(((firings.tokens_F >= config.min_tokens) & ~is_wide).sum())
        self._n_features = firings.tokens_F.size
        self.layers: list[int] = []
        self.p: list[float] = []
        self._counts: dict[str, int] = {}
        self._by_layer: list[dict[str, Any]] = []
        self._null: list[np.ndarray] = []

    def add(
        self, layer: int, evidence: Evidence, rows: Rows, p: float, calibration: list[dict]
    ) -> None:
        """Add one layer."""
        self.layers.append(layer)
        self.p.append(p)
        is_kept, tested_FE = rows["q"] < SURE, evidence.is_tested_FE
        counts = {
            "n_tested": is_kept.size,
            "n_kept": int(is_kept.sum()),
            "n_called": int((is_kept & (rows["lor"] > 0)).sum()),
            "n_token": int((is_kept & rows["is_token"]).sum()),
            "pair_below_min_expected": int((~tested_FE).sum()),
            **{f"n_tier_{tier}": int((rows["tier"] == tier).sum()) for tier in "ABC"},
            "n_draws": int(rows["n_perm"].sum()),
        }
        for name, count in counts.items():
            self._counts[name] = self._counts.get(name, 0) + count
        self._by_layer.append(
            {
                "layer": layer,
                "p": p,
                "ridge_error": float(evidence.error_E.mean()),
                "n_experts_never_chosen": int((evidence.columns["p_e"] == 0).sum()),
                "calibration": calibration,
            }
        )
        self._null.append(evidence.p_held_out[tested_FE])

    def told(self) -> dict[str, Any]:
        """Return the summary.

        `null` is a permutation treated as if it were the data, against the same null: the shares of
        its p values below .05 and .01 should be those numbers.
        """
        counts, n_columns = dict(self._counts), self._joined.routing.n_columns
        n_tested, n_draws = counts["n_tested"], counts.pop("n_draws")
        p = np.concatenate(self._null)
        return {
            "layers": self.layers,
            "n_tokens": self._joined.text.n_tokens,
            "n_documents": self._joined.text.documents.n_documents,
            "n_features": self._n_features,
            "n_pairs": self._n_features * n_columns,
            "not_tested": {
                "feature_below_min_tokens": self._n_rare * n_columns,
                "feature_below_min_documents": self._n_narrow * n_columns,
                "pair_below_min_expected": counts.pop("pair_below_min_expected"),
            },
            **counts,
            "n_permutations": self._config.n_permutations,
            "mean_draws": n_draws / n_tested if n_tested else None,
            "null": {
                "share_p_below_.05": float((p < 0.05).mean()) if p.size else None,
                "share_p_below_.01": float((p < 0.01).mean()) if p.size else None,
            },
            "problem": self._problem(n_tested),
            "by_layer": self._by_layer,
        }

    def _problem(self, n_tested: int) -> str:
        """Return why nothing could be tested; an empty string where something was."""
        if n_tested:
            return ""
        n, least = self._joined.text.documents.n_documents, self._config.min_documents
        if n < least:
            return (
                f"{n} documents in the test split, but a feature must fire in {least} to be "
                "tested; give the test split more text (corpus.n_tokens.test)"
            )
        return (
            f"no feature fires on {self._config.min_tokens} tokens in {least} documents with "
            f"{self._config.min_expected:g} expected joint tokens; give the test split more text, "
            "or lower experts.min_tokens, min_documents or min_expected"
        )
