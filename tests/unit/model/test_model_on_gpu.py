"""The claims of every family hold on a GPU too, where other kernels compute."""

import moe_claims
import pytest
import torch
from intervention_claims import interventions_are_changed_models, nearly_the_same
from pruned_moe import even_bans, n_bannable
from tiny_moe import FAMILIES, packed_batch, tiny_batch, tiny_network

from deepseemoe.model.adapter import MoeModel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

LENGTHS = [[11, 1, 20], [7, 25], [32]]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def model(request, family):
    return MoeModel(tiny_network(family, dtype=request.param).to("cuda"))


every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
@pytest.mark.parametrize("claim", moe_claims.IDENTITIES, ids=lambda claim: claim.__name__)
def test_the_identities_hold(model, claim):
    claim(model, moe_claims.recorded(model, packed_batch(LENGTHS)))


@every_family
def test_packing_edits_and_decisions_are_exact(model):
    moe_claims.a_packed_document_gets_what_it_gets_alone(model, LENGTHS)
    moe_claims.experts_get_the_recorded_decisions(model, packed_batch(LENGTHS))
    moe_claims.an_edit_that_changes_nothing_is_exactly_no_edit(model, tiny_batch())


@every_family
def test_a_ban_is_a_model_without_these_experts(model):
    bans = even_bans(model, n_bannable(model), seed=0)
    moe_claims.a_ban_is_a_model_without_these_experts(model, bans, packed_batch(LENGTHS))


@every_family
def test_interventions_are_changed_models(model):
    interventions_are_changed_models(model, packed_batch(LENGTHS), same=nearly_the_same)
