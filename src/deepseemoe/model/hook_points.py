"""Where the value of each hook point passes in the decoder layers of a model of any family.

resid_mid feeds both a norm (or the block) and the residual sum, and only the first can be hooked:
to replace it, the tensor itself has to be written, which both read.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from torch import nn

from deepseemoe.model.forms import PLAIN, Form
from deepseemoe.model.spec import Spec
from deepseemoe.names import HOOK_POINTS, ROUTING_ARRAYS, Site

MOE_ONLY = ("expert_out", "shared_out", *ROUTING_ARRAYS)


class Place(NamedTuple):
    """A module, on which side of it a value passes, and in which form it comes out there."""

    module: nn.Module
    side: Literal["input", "residual", "output"]
    """`residual`: an input that the residual sum reads too."""
    form: Form = PLAIN


class Decoder:
    """The decoder layers of a model, and where values pass in them.

    `moe_layers` are those with experts; `has_shared` says whether these have shared experts too.
    """

    def __init__(self, spec: Spec, layers: nn.ModuleList, *, has_shared: bool):
        self.spec = spec
        self.layers = layers
        self.has_shared = has_shared
        is_moe = [hasattr(getattr(layer, spec.block), spec.experts) for layer in layers]
        self.moe_layers = tuple(number for number, is_it in enumerate(is_moe) if is_it)

    def block(self, layer: int) -> nn.Module:
        """Return the MLP or Mixture of Experts of a layer."""
        return getattr(self.layers[layer], self.spec.block)

    def router(self, layer: int) -> nn.Module:
        """Return the router of a layer; raise ValueError where it has none."""
        self.check([Site("router_logits", layer)])
        return getattr(self.block(layer), self.spec.router)

    def experts(self, layer: int) -> nn.Module:
        """Return the routed experts of a layer; raise ValueError where it has none."""
        self.check([Site("expert_out", layer)])
        return getattr(self.block(layer), self.spec.experts)

    def check(
        self, sites: Iterable[Site], known: tuple[str, ...] = HOOK_POINTS + ROUTING_ARRAYS
    ) -> None:
        """Raise one ValueError that names all sites that are not there, or not `known`."""
        problems = [problem for site in sites if (problem := self._problem(site, known))]
        if problems:
            raise ValueError("; ".join(problems))

    def layer_problem(self, layer: int) -> str | None:
        """Return why a layer has no experts, or None where it has."""
        if layer not in range(len(self.layers)):
            return f"the model's last layer is {len(self.layers) - 1}"
        if layer not in self.moe_layers:
            there = ", ".join(map(str, self.moe_layers)) or "none"
            return f"layer {layer} is dense; layers with experts are {there}"
        return None

    def _problem(self, site: Site, known: tuple[str, ...]) -> str | None:
        if site.hook_point not in known:
            return f"{site}: only {', '.join(known)} can be used here"
        problem = self.layer_problem(site.layer)
        if problem and (site.hook_point in MOE_ONLY or site.layer >= len(self.layers)):
            return f"{site}: {problem}"
        if site.hook_point == "shared_out" and not self.has_shared:
            return f"{site}: the model has no shared experts"
        return None

    def place(self, site: Site) -> Place:
        """Return where the value of a site that is there passes."""
        spec, layer, block = self.spec, self.layers[site.layer], self.block(site.layer)
        before = getattr(layer, spec.router_norm) if spec.router_norm else block
        after = getattr(layer, spec.block_out_norm) if spec.block_out_norm else block
        attended = getattr(layer, spec.attention_out_norm or spec.attention)
        router, experts, shared = (
            getattr(block, name or "", None) for name in (spec.router, spec.experts, spec.shared)
        )
        return {
            "resid_pre": Place(layer, "input"),
            "attn_out": Place(attended, "output"),
            "resid_mid": Place(before, "residual"),
            "moe_in": Place(block, "input"),
            "expert_out": Place(experts, "output", spec.experts_form),
            "shared_out": Place(shared, "output", spec.shared_form),
            "moe_out": Place(after, "output"),
            "resid_post": Place(layer, "output"),
            **{array: Place(router, "output", self._routing(array)) for array in ROUTING_ARRAYS},
        }[site.hook_point]

    def _routing(self, array: str) -> Form:
        """Return how to read a routing array off a router's output; it is never written."""
        read = self.spec.router_form.read
        return PLAIN._replace(read=lambda router, output: getattr(read(router, output), array))
