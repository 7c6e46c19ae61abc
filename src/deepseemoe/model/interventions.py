"""Interventions on experts and routers: context managers of every model.

Each equals a model that is physically changed. They compose with each other, with `edit` and with
`record`, in whatever order they began: routers decide first, then experts compute, then edits act,
and `record` sees what the model goes on with; `route` gives the new decisions. One that asks for
nothing is exactly no change. What is not possible is said in one ValueError line, all layers at
once, before anything changes.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from deepseemoe.model.changes import Changes, experts_by_layer
from deepseemoe.model.hook_points import Decoder
from deepseemoe.model.mask_top import WHAT as MASKS
from deepseemoe.model.mask_top import n_masked_of
from deepseemoe.model.taps import Taps


class Interventions:
    """What a model can do otherwise with its experts, while a block runs."""

    _decoder: Decoder
    _taps: Taps

    def ban(self, bans: Mapping[int, Iterable[int]]) -> AbstractContextManager[None]:
        """Have routers do without experts: `{8: [17, 3]}` is L08.E17 and L08.E3.

        They decide again among the rest, so the model does what one does that never had these
        experts; scores of banned experts are -inf in `route`. Bans inside bans add up. Raises
        ValueError for layers and experts that are not there, and where a token might be left with
        fewer experts than it needs.
        """
        return self._changed(Changes(bans=experts_by_layer(bans)), "bans")

    def mask_top(self, shares: Mapping[int, float]) -> AbstractContextManager[None]:
        """Have each token do without the best share of its experts: `{8: 1 / 16}` is 4 of 64.

        The best are those with the highest selection scores of the token, among those not banned
        and before groups are limited. Of the rest the best top_k are chosen (DeepSeekMoE, Fig. 4),
        with scores as they were; those of masked experts are -inf in `route`. The number of
        experts is rounded to the nearest; masks inside masks add up. Raises ValueError for layers
        without experts, shares outside [0, 1) or too small for one expert, and where a token
        might have too few experts left.
        """
        return self._changed(Changes(n_masked=n_masked_of(self._decoder, shares)), MASKS)

    def active_k(self, numbers: Mapping[int, int]) -> AbstractContextManager[None]:
        """Have each token take another number of routed experts: `{8: 4}`.

        Weights are what the family makes of them under a top-k of that number, and recorded ids and
        weights have as many columns. Inside another `active_k` the inner number holds. Raises
        ValueError for layers without experts, and numbers below 1 or above what a token can choose.
        """
        return self._changed(Changes(top_k=dict(numbers)), "numbers of active experts")

    def drop(self, drops: Mapping[int, Iterable[int]]) -> AbstractContextManager[None]:
        """Have experts add nothing, with routing as it was: `{8: [17]}` takes L08.E17 out.

        Their weighted contribution leaves `expert_out`; the decisions stay, also as recorded, and
        the other experts' weights do not grow. Drops inside drops add up. Raises ValueError for
        layers and experts that are not there.
        """
        return self._changed(Changes(drops=experts_by_layer(drops)), "drops")

    def without_shared(self, layers: Iterable[int]) -> AbstractContextManager[None]:
        """Have the shared experts of some layers add nothing: `shared_out` is 0 before any edit.

        With `active_k` of one more it is DeepSeekMoE's test of the shared expert (section 4.5).
        Raises ValueError for layers and models without shared experts.
        """
        return self._changed(Changes(without_shared=frozenset(map(int, layers))), "layers")

    @contextmanager
    def _changed(self, changes: Changes, what: str) -> Iterator[None]:
        self._taps.add_changes(changes, what=what)
        try:
            yield
        finally:
            self._taps.drop_changes(changes)
