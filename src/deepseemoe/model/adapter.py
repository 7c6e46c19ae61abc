"""One Mixture-of-Experts language model: what passes through it, how to change it, its experts.

Axes: S sequences, N sequence length, T = S * N tokens (row b * N + s is token s of sequence b),
D d_model, V vocabulary, E experts, K top_k.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from deepseemoe.model.beside import beside
from deepseemoe.model.expert_kernels import fit_expert_kernel
from deepseemoe.model.hook_points import Decoder
from deepseemoe.model.interventions import Interventions
from deepseemoe.model.masks import segment_masks
from deepseemoe.model.routers import Routing
from deepseemoe.model.spec import sizes_of, spec_for
from deepseemoe.model.tap import Edit
from deepseemoe.model.taps import Recording, StopForward, Taps
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.names import HOOK_POINTS, Site


class MoeModel(Interventions):
    """A transformers model of a known family, put in evaluation mode and frozen.

    Nothing here needs gradients, and frozen weights keep autograd from building graphs; an edit
    that brings a tensor with gradients still gets them. `network` is the transformers model, for
    all else. `expert_domains` says what each routed expert was made for, in the order of experts,
    where that is known (FlexOlmo); no checkpoint says so, so whoever loads it has to.

    Raises ValueError where the family is unknown, or domains are not one for each expert.
    """

    def __init__(self, network: PreTrainedModel, *, expert_domains: Sequence[str] | None = None):
        self.network = network.eval().requires_grad_(False)
        fit_expert_kernel(network)
        self.spec = spec_for(network.config.model_type)
        sizes = sizes_of(network.config)
        self.n_layers, self.d_model, self.n_experts = sizes.n_layers, sizes.d_model, sizes.n_experts
        self.n_shared_experts, self.top_k = sizes.n_shared_experts, sizes.top_k
        self.d_expert = sizes.d_expert
        self.expert_domains = _one_for_each(expert_domains, self.n_experts)
        # not `base_model`: Llama4ForCausalLM has the prefix of the multimodal model around it
        self._base = getattr(network, "model", network)
        self._decoder = Decoder(self.spec, self._base.layers, has_shared=sizes.n_shared_experts > 0)
        self._taps = Taps(self._decoder)
        self.moe_layers = self._decoder.moe_layers

    @property
    def device(self) -> torch.device:
        """Where the model takes its tokens: the device of its embedding."""
        return self.network.get_input_embeddings().weight.device

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Where its parts are, `device` first; layers may be spread over several."""
        found = (parameter.device for parameter in self.network.parameters())
        return tuple(dict.fromkeys((self.device, *found)))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the residual stream."""
        return self.network.dtype

    @property
    def vocab_size(self) -> int:
        """How many tokens have an embedding; ids from there on are none of the model's."""
        return self.network.get_input_embeddings().num_embeddings

    @property
    def max_positions(self) -> int | None:
        """The longest sequence that the model was made for, where its configuration says so."""
        return getattr(self.network.config, "max_position_embeddings", None)

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers of the network."""
        return self._decoder.layers

    def check(self, sites: Iterable[str | Site]) -> None:
        """Raise one ValueError that names all `sites` that the model does not have."""
        self._decoder.check(_parse(sites))

    def hidden_states(self, tokens: TokenBatch) -> Tensor:
        """Return the last hidden states (S, N, D), after the final norm and without the head.

        Inside `record(..., stop=True)` the forward pass ends with the last recorded layer, and this
        is the residual stream there, which no norm has seen. Raises ValueError where a site that is
        recorded or edited, or an intervention, did not fire exactly once.
        """
        with self._forward():
            try:
                return self._base(**self._inputs(tokens)).last_hidden_state
            except StopForward as stop:
                return stop.hidden

    def logits(self, tokens: TokenBatch) -> Tensor:
        """Return the logits (S, N, V) of the whole model, with its head."""
        if self._base is self.network:
            raise ValueError("the model was loaded without its head; load it with n_layers=None")
        if self._taps.stops_early:
            raise ValueError("record(stop=True) ends before the head; use hidden_states")
        with self._forward():
            return self.network(**self._inputs(tokens)).logits

    @contextmanager
    def record(
        self, sites: Iterable[str | Site], *, stop: bool = False
    ) -> Iterator[Mapping[str, Tensor]]:
        """Yield a mapping that each forward pass fills: `acts["resid_post/L08"]` is (T, D).

        Routing arrays are `router_logits` (T, E), `expert_ids` and `expert_weights` (T, K), the two
        sorted by falling weight. Values are detached, not copied, in the model's types, and hold
        until the next forward pass, each on the device of its layer. `stop` lets forward passes end
        with the last recorded layer. Raises ValueError for sites that the model does not have, all
        in one line, and where no forward pass was made.
        """
        parsed = _parse(sites)
        self._decoder.check(parsed)
        recording = Recording(parsed, {}, stop)
        self._taps.add_recording(recording)
        try:
            yield recording.values
        finally:
            self._taps.drop_recording(recording)
        if parsed and not recording.values:
            raise ValueError("nothing was recorded: call hidden_states or logits inside record()")

    @contextmanager
    def edit(self, edits: Mapping[str | Site, Edit]) -> Iterator[None]:
        """Replace values while the block runs: `{"resid_post/L08": fn}`, with fn (T, D) -> (T, D).

        `fn` must return a new tensor and leave its argument alone; returning the argument is
        exactly no edit. It is called on `device`, whatever the layer's. Edits at one site follow
        each other, and `record` sees what comes out. Raises ValueError for sites that the model
        does not have, and for routing arrays.
        """
        parsed = _parse(edits)
        self._decoder.check(parsed, HOOK_POINTS)
        moved = [_at(self.device, fn) for fn in edits.values()]
        group = tuple(zip(parsed, moved, strict=True))
        self._taps.add_edits(group)
        try:
            yield
        finally:
            self._taps.drop_edits(group)

    def router_weight(self, layer: int) -> Tensor:
        """Return a router's rows (E, D): logits are its input times them, plus gpt-oss's bias."""
        return self._decoder.router(layer).weight.detach()

    def router_gain(self, layer: int) -> Tensor:
        """Return the gain (D,) of the norm before the router; ones where there is none."""
        self._decoder.check([Site("resid_mid", layer)])
        if self.spec.router_norm is None:
            return torch.ones(self.d_model, dtype=self.dtype, device=self.device)
        return getattr(self.layers[layer], self.spec.router_norm).weight.detach()

    def router_input(self, layer: int, resid_mid_TD: Tensor) -> Tensor:
        """Return moe_in for residuals before the norm of a router (T, D), by the norm itself."""
        self._decoder.check([Site("resid_mid", layer)])
        if self.spec.router_norm is None:
            return resid_mid_TD
        norm = getattr(self.layers[layer], self.spec.router_norm)
        # `forward`, not a call: hooks of a recording must not see these
        return norm.forward(resid_mid_TD.to(norm.weight.device)).to(resid_mid_TD.device)

    @property
    def has_output_norm(self) -> bool:
        """Whether a norm stands between a block and the residual stream (post-norm families)."""
        return self.spec.block_out_norm is not None

    def block_output(self, layer: int, block_TD: Tensor) -> Tensor:
        """Return moe_out for what a block's experts sum to (T, D), by the norm itself, if any."""
        self._decoder.check([Site("moe_out", layer)])
        if self.spec.block_out_norm is None:
            return block_TD
        norm = getattr(self.layers[layer], self.spec.block_out_norm)
        return norm.forward(block_TD.to(norm.weight.device)).to(block_TD.device)

    @property
    def routes_single_tokens(self) -> bool:
        """Whether routers read the token's own residual alone; NanoMoE may pool those of others."""
        return getattr(self.network.config, "routing", "token") == "token"

    def route(self, layer: int, x_TD: Tensor) -> Routing:
        """Return what the router of a layer decides on inputs (T, D), from its parameters alone.

        Interventions that are on hold here too: bans, masks and another number of active experts.
        The input is moe_in, except under NanoMoE's pooled routings, where it is its pooled form.
        """
        there = self._decoder.router(layer).weight.device
        routing = self._taps.route(layer, x_TD.to(there))
        return Routing(*(part.to(x_TD.device) for part in routing))

    def expert_outputs(
        self, layer: int, x_TD: Tensor, ids_TK: Tensor, weights_TK: Tensor
    ) -> Tensor:
        """Return the weighted output (T, K, D) of each named expert on block inputs (T, D).

        With recorded ids and weights, the sum over K is `expert_out`, unless experts are dropped:
        what they would add is given all the same. Any expert may be asked about any token: weights
        of one give its plain output. Weights scale outputs, but inputs in Llama 4. Works on T * K
        rows of size D at once.
        """
        experts = self._decoder.experts(layer)
        there = next(experts.parameters()).device
        inputs = (part.to(there) for part in (x_TD, ids_TK.long(), weights_TK))
        return self.spec.contributions(experts, *inputs).to(x_TD.device)

    @contextmanager
    def _forward(self) -> Iterator[None]:
        """Have all taps count this forward pass alone, and check them after it."""
        self._taps.begin()
        yield
        self._taps.check()

    def _inputs(self, tokens: TokenBatch) -> dict:
        """Return the keyword arguments of a forward pass, with masks that keep segments apart."""
        with beside(self.device) as handed_over:
            inputs = self._arguments(tokens)
            handed_over(inputs)
        return inputs

    def _arguments(self, tokens: TokenBatch) -> dict:
        ids_SN, positions_SN = tokens.to(self.device)
        like = self.network.get_input_embeddings().weight
        mask = segment_masks(self.network.config, self.spec, like, positions_SN)
        return {
            "input_ids": ids_SN,
            "attention_mask": mask,
            "position_ids": positions_SN,
            "use_cache": False,
        }


def _at(device: torch.device, fn: Edit) -> Edit:
    """Return an edit that computes on `device`, wherever its value is and has to return to."""
    return lambda value_TD: fn(value_TD.to(device)).to(value_TD.device)


def _parse(sites: Iterable[str | Site]) -> tuple[Site, ...]:
    return tuple(site if isinstance(site, Site) else Site.parse(site) for site in sites)


def _one_for_each(domains: Sequence[str] | None, n_experts: int) -> tuple[str, ...] | None:
    if domains is not None and len(domains) != n_experts:
        raise ValueError(
            f"expert_domains names {len(domains)} experts, and the model has {n_experts} a layer"
        )
    return None if domains is None else tuple(domains)
