"""The claims hold for any shape of a family, not only for the tiny one of the other tests."""

import pytest
import torch
from intervention_claims import interventions_are_changed_models
from moe_claims import all_claims
from random_moe import DRAWS, random_changes
from tiny_moe import FAMILIES, packed_batch, tiny_network

from deepseemoe.model.adapter import MoeModel

LENGTHS = [[11, 1, 8], [20], [3, 17]]
IN_FLOAT32 = [(family, seed, torch.float32) for family in DRAWS for seed in range(6)]
IN_BFLOAT16 = [(family, seed, torch.bfloat16) for family in DRAWS for seed in range(2)]
IDS = [f"{family}-{seed}-{str(dtype)[6:]}" for family, seed, dtype in IN_FLOAT32 + IN_BFLOAT16]


def test_every_family_is_drawn():
    assert set(DRAWS) == set(FAMILIES)


@pytest.mark.parametrize(("family", "seed", "dtype"), IN_FLOAT32 + IN_BFLOAT16, ids=IDS)
def test_all_claims_hold_for_a_random_configuration(family, seed, dtype):
    network = tiny_network(family, dtype=dtype, **random_changes(family, seed))
    model = MoeModel(network)
    all_claims(model, LENGTHS, seed=seed)
    interventions_are_changed_models(model, packed_batch(LENGTHS), seed=seed)


@pytest.mark.parametrize("d_model", [20, 27])
@pytest.mark.parametrize("d_expert", [7, 10])
def test_experts_of_any_width_run(d_model, d_expert):
    sizes = {"hidden_size": d_model, "moe_intermediate_size": d_expert}
    model = MoeModel(tiny_network("qwen3_moe", **sizes))  # grouped products refuse these widths
    all_claims(model, LENGTHS)


def test_experts_run_in_float64():
    all_claims(MoeModel(tiny_network("qwen3_moe", dtype=torch.float64)), LENGTHS)


def test_experts_of_common_widths_run_at_once():
    model = MoeModel(tiny_network("qwen3_moe"))
    assert model.network.config._experts_implementation == "grouped_mm"
