"""One Mixture-of-Experts language model: what passes through it, how to change it, its experts.

Axes: S sequences, N sequence length, T = S * N tokens (row b * N + s is token s of sequence b),
D d_model, V vocabulary, E experts, K top_k.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from deepseemoe.model.hook_points import Place, place_of
from deepseemoe.model.masks import segment_masks
from deepseemoe.model.routers import Routing
from deepseemoe.model.spec import sizes_of, spec_for
from deepseemoe.model.taps import Edit, Recording, StopForward, Taps
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.names import HOOK_POINTS, ROUTING_ARRAYS, Site

MOE_ONLY = ("expert_out", "shared_out", *ROUTING_ARRAYS)


class MoeModel:
    """A transformers model of a known family, put in evaluation mode and frozen.

    Nothing here needs gradients, and frozen weights keep autograd from building graphs; an edit
    that brings a tensor with gradients still gets them. `network` is the transformers model, for
    all else. Raises ValueError where its family is unknown.
    """

    def __init__(self, network: PreTrainedModel):
        self.network = network.eval().requires_grad_(False)
        self.spec = spec_for(network.config.model_type)
        sizes = sizes_of(network.config)
        self.n_layers, self.d_model, self.n_experts = sizes.n_layers, sizes.d_model, sizes.n_experts
        self.n_shared_experts, self.top_k = sizes.n_shared_experts, sizes.top_k
        self.d_expert = sizes.d_expert
        self._base = network.base_model
        self._layers: nn.ModuleList = self._base.layers
        self._taps = Taps(self._layers)
        self.moe_layers = tuple(n for n in range(self.n_layers) if self._is_moe(n))

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the residual stream."""
        return self.network.dtype

    @property
    def max_positions(self) -> int | None:
        """The longest sequence that the model was made for, where its configuration says so."""
        return getattr(self.network.config, "max_position_embeddings", None)

    def hidden_states(self, tokens: TokenBatch) -> Tensor:
        """Return the last hidden states (S, N, D), after the final norm and without the head.

        Inside `record(..., stop=True)` the forward pass ends with the last recorded layer, and this
        is the residual stream there, which no norm has seen. Raises ValueError where a site that is
        recorded or edited did not fire exactly once.
        """
        with _forward(self._taps):
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
        with _forward(self._taps):
            return self.network(**self._inputs(tokens)).logits

    @contextmanager
    def record(
        self, sites: Iterable[str | Site], *, stop: bool = False
    ) -> Iterator[Mapping[str, Tensor]]:
        """Yield a mapping that each forward pass fills: `acts["resid_post/L08"]` is (T, D).

        Routing arrays are `router_logits` (T, E), `expert_ids` and `expert_weights` (T, K), the two
        sorted by falling weight. Values are detached, not copied, in the model's types, and hold
        until the next forward pass. `stop` lets forward passes end with the last recorded layer.
        Raises ValueError for sites that the model does not have, all in one line, and where
        no forward pass was made.
        """
        recording = Recording(tuple(self._places(sites)), {}, stop)
        self._taps.add_recording(recording)
        try:
            yield recording.values
        finally:
            self._taps.drop_recording(recording)
        if recording.taps and not recording.values:
            raise ValueError("nothing was recorded: call hidden_states or logits inside record()")

    @contextmanager
    def edit(self, edits: Mapping[str | Site, Edit]) -> Iterator[None]:
        """Replace values while the block runs: `{"resid_post/L08": fn}`, with fn (T, D) -> (T, D).

        `fn` must return a new tensor and leave its argument alone; returning the argument is
        exactly no edit. Edits at one site follow each other, and `record` sees what comes out.
        Raises ValueError for sites that the model does not have, and for routing arrays.
        """
        places = self._places(edits, known=HOOK_POINTS)
        group = [(*place, fn) for place, fn in zip(places, edits.values(), strict=True)]
        self._taps.add_edits(group)
        try:
            yield
        finally:
            self._taps.drop_edits(group)

    def router_weight(self, layer: int) -> Tensor:
        """Return a router's rows (E, D): logits are its input times them, plus gpt-oss's bias."""
        return self._router(layer).weight.detach()

    def router_gain(self, layer: int) -> Tensor:
        """Return the gain (D,) of the norm before the router; ones where there is none."""
        self._places([Site("resid_mid", layer)])
        if self.spec.router_norm is None:
            return torch.ones(self.d_model, dtype=self.dtype, device=self.device)
        return getattr(self._layers[layer], self.spec.router_norm).weight.detach()

    def route(self, layer: int, x_TD: Tensor) -> Routing:
        """Return what the router of a layer decides on inputs (T, D), from its parameters alone.

        The input is moe_in, except under NanoMoE's pooled routings, where it is its pooled form.
        """
        return self.spec.route(self._router(layer), x_TD)

    def expert_outputs(
        self, layer: int, x_TD: Tensor, ids_TK: Tensor, weights_TK: Tensor
    ) -> Tensor:
        """Return the weighted output (T, K, D) of each named expert on block inputs (T, D).

        With recorded ids and weights, the sum over K is `expert_out`. Any expert may be asked about
        any token: weights of one give its plain output. Works on T * K rows of size D at once.
        """
        self._router(layer)  # names the layers with experts where this one has none
        n_slots = ids_TK.shape[-1]
        experts = getattr(getattr(self._layers[layer], self.spec.block), self.spec.experts)
        rows = x_TD.repeat_interleave(n_slots, 0)
        # `forward`, not a call: hooks of a recording must not see these
        out = experts.forward(rows, ids_TK.long().reshape(-1, 1), weights_TK.reshape(-1, 1))
        return out.unflatten(0, (-1, n_slots))

    def _inputs(self, tokens: TokenBatch) -> dict:
        """Return the keyword arguments of a forward pass, with masks that keep segments apart."""
        ids_SN, positions_SN = tokens.to(self.device)
        like = self.network.get_input_embeddings().weight
        mask = segment_masks(self.network.config, self.spec, like, positions_SN)
        return {
            "input_ids": ids_SN,
            "attention_mask": mask,
            "position_ids": positions_SN,
            "use_cache": False,
        }

    def _is_moe(self, layer: int) -> bool:
        return hasattr(getattr(self._layers[layer], self.spec.block), self.spec.experts)

    def _router(self, layer: int) -> nn.Module:
        return next(self._places([Site("router_logits", layer)]))[1].module

    def _places(
        self, sites: Iterable[str | Site], known: tuple[str, ...] = HOOK_POINTS + ROUTING_ARRAYS
    ) -> Iterator[tuple[Site, Place]]:
        """Return where the values of `sites` pass; one ValueError names all that are not there."""
        parsed = [site if isinstance(site, Site) else Site.parse(site) for site in sites]
        problems = [problem for site in parsed if (problem := self._problem(site, known))]
        if problems:
            raise ValueError("; ".join(problems))
        return (
            (site, place_of(self.spec, self._layers[site.layer], site.hook_point))
            for site in parsed
        )

    def _problem(self, site: Site, known: tuple[str, ...]) -> str | None:
        """Return why a site cannot be had, or None."""
        if site.hook_point not in known:
            return f"{site}: only {', '.join(known)} can be used here"
        if site.layer >= self.n_layers:
            return f"{site}: the model's last layer is {self.n_layers - 1}"
        if site.hook_point in MOE_ONLY and site.layer not in self.moe_layers:
            there = ", ".join(map(str, self.moe_layers)) or "none"
            return f"{site}: layer {site.layer} is dense; layers with experts are {there}"
        if site.hook_point == "shared_out" and not self.n_shared_experts:
            return f"{site}: the model has no shared experts"
        return None


@contextmanager
def _forward(taps: Taps) -> Iterator[None]:
    """Have all taps count this forward pass alone, and check them after it."""
    taps.begin()
    yield
    taps.check()
