"""The definition of every metric of a dictionary. Nothing else in the project defines them.

    fvu              sum |y - ŷ|² / sum |y - mean y|² over all tokens, for each layer. 0 is perfect,
                     1 no better than the mean. Never a mean of ratios of batches.
    l0               active features of a token, on average
    dead_fraction    share of features that are active on no token
    loss_recovered   (CE_ablated - CE_spliced) / (CE_ablated - CE_original)
    kl_recovered     (KL_ablated - KL_spliced) / KL_ablated,  KL from the original's predictions
    router_agreement share of a router's top-k experts that splicing leaves in its top k
    routing_kl       KL from a router's distribution over experts to that with splicing, nats

CE and KL are means over tokens whose next token is in the same segment, in nats, from float32
log-probabilities. *Spliced* means that reconstructions stand in for the activations of all layers
of the window at once; *ablated* that zeros do (zeros, not means: SAEBench's choice).

Axes: T tokens, D d_model, L layers of the window, V vocabulary, E experts, K top_k, F features.
"""

import torch
from torch import Tensor


class Reconstruction:
    """Running FVU of each layer over any number of blocks of tokens."""

    def __init__(self, centre_LD: Tensor) -> None:
        """`centre_LD` is any guess of the mean; sums are taken around it, in float64."""
        self._centre_LD = centre_LD.double()
        self.n_tokens = 0
        self._sum_LD = torch.zeros_like(self._centre_LD)
        self._square_L = self._sum_LD.sum(1)
        self._error_L = self._sum_LD.sum(1)

    def add(self, target_TLD: Tensor, output_TLD: Tensor) -> None:
        """Take in targets and their reconstructions."""
        offset_TLD = target_TLD.double() - self._centre_LD
        self.n_tokens += len(offset_TLD)
        self._sum_LD += offset_TLD.sum(0)
        self._square_L += offset_TLD.square().sum((0, 2))
        self._error_L += (target_TLD.double() - output_TLD.double()).square().sum((0, 2))

    @property
    def fvu_L(self) -> Tensor:
        """FVU of each layer so far; raise ValueError where a layer's target never varied."""
        spread_L = self._square_L - self._sum_LD.square().sum(1) / max(self.n_tokens, 1)
        if not bool((spread_L > 0).all()):
            raise ValueError(
                f"the targets do not vary over {self.n_tokens} valid tokens at every layer of the "
                "window, so FVU has no meaning; look at the test stores"
            )
        return self._error_L / spread_L


class Sparsity:
    """Running l0 and dead_fraction."""

    def __init__(self, d_dict: int) -> None:
        self._n_active_F = torch.zeros(d_dict, dtype=torch.int64)
        self.n_tokens = 0

    def add(self, features: Tensor, n_tokens: int) -> None:
        """Take in the features of all entries of some tokens."""
        self._n_active_F += torch.bincount(features.cpu(), minlength=len(self._n_active_F))
        self.n_tokens += n_tokens

    @property
    def l0(self) -> float:
        """Active features of a token, on average."""
        return float(self._n_active_F.sum()) / max(self.n_tokens, 1)

    @property
    def dead_fraction(self) -> float:
        """Share of features that were never active."""
        return float((self._n_active_F == 0).double().mean())


class Predictions:
    """Running cross-entropy of predictions, and their KL from the original's; sums, in nats."""

    def __init__(self) -> None:
        self.cross_entropy = 0.0
        self.kl = 0.0

    def add(self, log_p_TV: Tensor, original_TV: Tensor, target_T: Tensor) -> None:
        """Take in log-probabilities, those of the original model, and the tokens that came."""
        self.cross_entropy -= float(log_p_TV.gather(1, target_T[:, None]).double().sum())
        divergence_TV = original_TV.exp() * (original_TV - log_p_TV)
        self.kl += float(divergence_TV.double().sum())


def recovered(original: float, spliced: float, ablated: float) -> float | None:
    """Return how far back from ablated to original splicing gets; None where they are equal."""
    return (ablated - spliced) / (ablated - original) if ablated != original else None


def router_agreement(original_TK: Tensor, spliced_TK: Tensor) -> Tensor:
    """Return the share of each token's experts that are chosen both times, (T,)."""
    is_same_TKK = original_TK[:, :, None] == spliced_TK[:, None, :]
    return is_same_TKK.any(2).double().mean(1)


def routing_kl(original_TE: Tensor, spliced_TE: Tensor) -> Tensor:
    """Return the KL divergence between softmaxes of router logits, nats, (T,)."""
    log_p_TE = torch.log_softmax(original_TE.double(), -1)
    log_q_TE = torch.log_softmax(spliced_TE.double(), -1)
    return (log_p_TE.exp() * (log_p_TE - log_q_TE)).sum(-1)
