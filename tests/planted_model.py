"""A Mixture-of-Experts model of known weights: which expert writes which feature is planted.

Every token type has some features; its residual is the sum of their `reads` directions. Expert
`writer_F[f]` turns the `reads` direction of feature f into its `writes` direction, the others do
not. Routing is the top k of a random read-out: what an expert is called for is not what it writes.

Axes: T tokens, V token types, F features, E experts, K top_k, D width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepseemoe.model.tokens import TokenBatch
from deepseemoe.names import Site, Window


class PlantedDictionary(NamedTuple):
    """What stages read of a `Dictionary`."""

    kind: str
    window: Window
    decoder_FLD: Tensor
    encoder_FLD: Tensor | None = None
    reads: str = "moe_in"

    @property
    def d_dict(self) -> int:
        return len(self.decoder_FLD)


class PlantedMoe:
    """As a `MoeModel` whose MoE layers are all alike, with a gain in the norm before them."""

    def __init__(
        self,
        seed: int,
        *,
        n_types: int = 120,
        n_features: int = 24,
        n_experts: int = 6,
        top_k: int = 2,
        width: int = 64,
        layers: Sequence[int] = (1,),
    ):
        rng = np.random.default_rng([seed, 3])
        self.n_experts, self.top_k, self.moe_layers = n_experts, top_k, tuple(layers)
        self.has_feature_VF = rng.random((n_types, n_features)) < 0.1
        self.reads_FD, self.writes_FD = _unit(rng.normal(size=(2, n_features, width)))
        self.writer_F = rng.integers(n_experts, size=n_features)
        noise_VD = 0.3 * rng.normal(size=(n_types, width)) / width**0.5
        self._residual_VD = _tensor(self.has_feature_VF @ self.reads_FD + noise_VD)
        is_writer_EF = self.writer_F == np.arange(n_experts)[:, None]
        self._experts_EDD = _tensor(
            np.einsum("ef,fo,fi->eoi", is_writer_EF, self.writes_FD, self.reads_FD)
        )
        self._router_ED = _tensor(rng.normal(size=(n_experts, width)))
        self._gain_D = _tensor(rng.uniform(0.5, 1.5, width))

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def has_output_norm(self) -> bool:
        return False

    def router_input(self, layer: int, resid_mid_TD: Tensor) -> Tensor:
        scale_T1 = resid_mid_TD.square().mean(-1, keepdim=True).sqrt()
        return self._gain_D * resid_mid_TD / scale_T1

    def router_weight(self, layer: int) -> Tensor:
        return self._router_ED

    def router_gain(self, layer: int) -> Tensor:
        return self._gain_D

    def norm_scale(self, residual_TD: Tensor) -> Tensor:
        """Return what the norm divides by (T, 1)."""
        return residual_TD.square().mean(1, keepdim=True).sqrt()

    @contextmanager
    def record(self, sites: Sequence[str], *, stop: bool = False) -> Iterator[dict[str, Tensor]]:
        self._sites, self._acts = list(sites), {}
        yield self._acts

    def hidden_states(self, tokens: TokenBatch) -> None:
        residual_TD = self._residual_VD[tokens.token_ids.flatten()]
        moe_in_TD = self._gain_D * residual_TD / self.norm_scale(residual_TD)
        weights_TK, ids_TK = (moe_in_TD @ self._router_ED.T).softmax(1).topk(self.top_k)
        values = {
            "resid_mid": residual_TD,
            "moe_in": moe_in_TD,
            "expert_ids": ids_TK,
            "expert_weights": weights_TK,
        }
        self._acts.update({site: values[Site.parse(site).hook_point] for site in self._sites})

    def expert_outputs(
        self, layer: int, x_TD: Tensor, ids_TK: Tensor, weights_TK: Tensor
    ) -> Tensor:
        return torch.einsum("tkoi,ti->tko", self._experts_EDD[ids_TK], x_TD) * weights_TK[..., None]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
