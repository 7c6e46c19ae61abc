"""Parameters are those of the published models, from their config.json alone."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from deepseemoe.config import ModelConfig, RunConfig, load_run
from deepseemoe.model.training import new_network
from deepseemoe.plan.memory import model_bytes
from deepseemoe.plan.source import checkpoint_of
from deepseemoe.plan.speed import forward_flops

GIB = 2**30
BILLIONS = {
    "gpt-oss-20b": 20.915,  # 20.9 in the model card
    "olmoe-1b-7b": 6.919,
    "deepseek-v2-lite": 15.706,
    "mixtral-8x7b": 46.703,
    "flexolmo-7x7b": 33.271,
    "deepseek-moe-16b": 16.376,
}
ACTIVE = {
    "gpt-oss-20b": 3.608,  # 3.6 in the model card, which leaves the embedding out
    "deepseek-moe-16b": 2.619,  # 2.8 in the paper, with it
    "olmoe-1b-7b": 1.179,  # 1.3, with it
    "mixtral-8x7b": 12.749,  # 12.9, with it
}


@pytest.mark.parametrize("name", BILLIONS)
def test_parameters_are_those_of_the_published_model(name, published):
    assert round(published(name).n_parameters / 1e9, 3) == BILLIONS[name]


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_leave_out_what_a_token_does_not_choose(name, published):
    network = published(name)
    assert round((network.n_active - network.n_embedding) / 1e9, 3) == ACTIVE[name]


def test_the_first_layers_of_gpt_oss_count_as_by_hand(published):
    first = published("gpt-oss-20b").first(14)
    d, heads, keys = 2880, 64 * 64, 2 * 8 * 64
    attention = d * (heads + keys) + heads + keys + heads * d + d + 64  # biases, and sinks
    experts = 32 * (d * 5760 + 5760 + 2880 * d + d)
    router, norms = 32 * d + 32, 2 * d
    layer = attention + experts + router + norms
    assert first.n_parameters == 14 * layer + 201_088 * d + d
    assert first.n_head == 0
    assert first.moe_layers == tuple(range(14))


def test_weights_of_two_devices_are_those_of_one(published):
    network = published("flexolmo-7x7b")
    config = ModelConfig(source="hub", name="x", dtype="bfloat16")
    one, both = model_bytes(config, network), model_bytes(config, network, 2)
    assert one == [2 * network.n_parameters] == [sum(both)]
    assert max(both) < 0.52 * one[0]


def test_mxfp4_weights_are_a_quarter_of_bfloat16(published):
    network = published("gpt-oss-20b")
    native = ModelConfig(source="hub", name="x", dtype="bfloat16", kernels="native")
    assert round(model_bytes(native, network)[0] / GIB, 1) == 12.8  # 12.8 GiB on the Hub


def test_the_runs_own_model_is_counted_as_it_is_made(tiny_network):
    run = RunConfig()
    sizes = {"vocab_size": run.corpus.tokenizer.vocab_size, "max_positions": 64, "seed": 0}
    network = new_network(run.model.architecture, **sizes)
    parameters = {id(p): p.numel() for p in network.parameters()}  # tied ones once
    assert tiny_network.n_parameters == sum(parameters.values())


def test_flops_are_two_a_parameter_and_attention(tiny_network):
    run = RunConfig()
    sizes = {"vocab_size": run.corpus.tokenizer.vocab_size, "max_positions": 64, "seed": 0}
    network = new_network(run.model.architecture, **sizes)
    network.set_experts_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.model(torch.zeros(2, 64, dtype=torch.int64))
    counted = counter.get_total_flops() / 128
    assert forward_flops(tiny_network.first(None), 64) == pytest.approx(counted, rel=0.05)


def test_a_folder_is_read_like_the_file(tmp_path, config_file):
    (tmp_path / "config.json").write_bytes(config_file("olmoe-1b-7b").read_bytes())
    run = load_run({"model": {"source": "hub", "name": str(tmp_path)}})
    assert checkpoint_of(run).n_layers == 16


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"model_type": "gpt2"}', "'gpt2' is no Mixture-of-Experts family"),
        ("{", "not a valid JSON"),
    ],
)
def test_a_wrong_file_is_named_in_one_line(tmp_path, text, line):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises((ValueError, OSError), match=line) as raised:
        checkpoint_of(RunConfig(), file)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)
