"""A model by its parameters, counted on its outline: no weight is read or allocated."""

from typing import NamedTuple

from torch import nn
from transformers import PreTrainedConfig

from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.checkpoint import Checkpoint
from deepseemoe.model.outline import outline


class Layer(NamedTuple):
    """Parameters of one decoder layer."""

    n_parameters: int
    n_routed: int
    """Those of its routed experts; 0 in a dense layer."""


class Network(NamedTuple):
    """Sizes of a model, or of its first layers; whatever asks an adapter for sizes takes it too."""

    family: str
    d_model: int
    n_experts: int
    n_shared_experts: int
    top_k: int
    d_expert: int
    n_heads: int
    d_head: int
    vocab_size: int
    moe_layers: tuple[int, ...]
    layers: tuple[Layer, ...]
    n_embedding: int
    n_head: int
    """Parameters of the output head; 0 where it is the embedding or not loaded."""
    n_rest: int
    """The final norm, and whatever else stands outside of the layers."""

    @property
    def n_layers(self) -> int:
        """Decoder layers."""
        return len(self.layers)

    @property
    def n_parameters(self) -> int:
        """All parameters."""
        inside = sum(layer.n_parameters for layer in self.layers)
        return inside + self.n_embedding + self.n_head + self.n_rest

    @property
    def n_active(self) -> int:
        """Parameters of the path of one token: all but the experts that it does not choose."""
        n_routed = sum(layer.n_routed for layer in self.layers)
        return self.n_parameters - n_routed + n_routed * self.top_k // self.n_experts

    def first(self, n_layers: int | None) -> "Network":
        """Return what capture loads: the first layers, or all for None, without the head."""
        kept = self.layers[:n_layers]
        moe_layers = tuple(layer for layer in self.moe_layers if layer < len(kept))
        return self._replace(layers=kept, moe_layers=moe_layers, n_head=0)


def read_network(checkpoint: Checkpoint) -> Network:
    """Return the sizes of a model; raise ValueError where all its layers are dense."""
    model, config = outline(checkpoint, head=True), checkpoint.network_config
    if not model.moe_layers:
        raise ValueError(f"{checkpoint.where}: all layers are dense, there are no experts to read")
    base = model.network.get_decoder()
    layers = tuple(_layer(model, number, part) for number, part in enumerate(base.layers))
    n_embedding = _count(base.get_input_embeddings())
    n_base, n_inside = _count(base), sum(layer.n_parameters for layer in layers)
    return Network(
        family=config.model_type,
        d_model=model.d_model,
        n_experts=model.n_experts,
        n_shared_experts=model.n_shared_experts,
        top_k=model.top_k,
        d_expert=model.d_expert,
        n_heads=config.num_attention_heads,
        d_head=_d_head(config),
        vocab_size=config.vocab_size,
        moe_layers=model.moe_layers,
        layers=layers,
        n_embedding=n_embedding,
        n_head=0 if config.tie_word_embeddings else _count(model.network) - n_base,
        n_rest=n_base - n_inside - n_embedding,
    )


def _layer(model: MoeModel, number: int, part: nn.Module) -> Layer:
    if number not in model.moe_layers:
        return Layer(_count(part), 0)
    experts = getattr(getattr(part, model.spec.block), model.spec.experts)
    return Layer(_count(part), _count(experts))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _d_head(config: PreTrainedConfig) -> int:
    """Return the channels of one head; in latent attention, of its queries."""
    latent = getattr(config, "qk_nope_head_dim", 0) + getattr(config, "qk_rope_head_dim", 0)
    own = getattr(config, "head_dim", None)
    return latent or own or config.hidden_size // config.num_attention_heads
