"""`model.random_weights`: what the key reads, and what it refuses."""

import pytest
import torch

from deepseemoe.config import ConfigError, ModelConfig, load_run
from deepseemoe.justify.random_model import write_random_model
from deepseemoe.model.loading import load_model
from deepseemoe.model.nanomoe.configuration import NanoMoeConfig
from deepseemoe.model.nanomoe.modeling import NanoMoeForCausalLM, register_nanomoe


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a small NanoMoE whose weights are all 1: trained, as far as one sees."""
    register_nanomoe()
    folder = tmp_path_factory.mktemp("model")
    config = NanoMoeConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=8, max_position_embeddings=32,
    )  # fmt: skip
    network = NanoMoeForCausalLM(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
    network.save_pretrained(folder)
    return folder


def embedding(config, folder):
    return load_model(config, folder).network.get_input_embeddings().weight


def test_the_key_reads_what_was_drawn_and_not_what_was_trained(trained, tmp_path):
    config = ModelConfig(random_weights=True)
    write_random_model(config, trained, random=tmp_path / "drawn", seed=0)
    read = embedding(config, tmp_path / "drawn")
    assert embedding(ModelConfig(), trained).std() == 0
    assert read.std() > 0.001
    write_random_model(ModelConfig(), trained, random=tmp_path / "of_trained", seed=0)
    assert torch.equal(read, embedding(config, tmp_path / "of_trained")), "one rule draws for all"


def test_a_hub_model_is_drawn_by_its_configuration_and_read_from_the_run(trained, tmp_path):
    config = ModelConfig(source="hub", name=str(trained), random_weights=True)
    write_random_model(config, None, random=tmp_path / "drawn", seed=0)
    assert embedding(config, tmp_path / "drawn").std() > 0.001
    assert embedding(config.trained, None).std() == 0


def test_without_its_folder_it_does_not_fall_back_to_trained_weights():
    config = ModelConfig(source="hub", name="some/model", random_weights=True)
    with pytest.raises(ValueError, match="random_weights needs the folder"):
        load_model(config, None)


@pytest.mark.parametrize(
    ("run", "line"),
    [
        ({"model": {"source": "planted"}, "corpus": {"source": "planted"}}, "hand-set weights"),
        ({"model": {"source": "hub", "name": "x/y", "kernels": "native"}}, "write kernels: plain"),
        ({"prediction": {"random_model": True}}, "prediction.random_model: compares with random"),
        ({"trust": {"switches": ["weights"]}}, "trust.switches: weights: compares with random"),
    ],
)
def test_what_makes_no_sense_with_it_is_one_line(run, line):
    load_run(run)
    model = {**run.get("model", {}), "random_weights": True}
    with pytest.raises(ConfigError, match=line):
        load_run({**run, "model": model})


def test_justify_says_that_there_is_no_trained_model():
    from deepseemoe.justify.plan import plan_problems

    run = load_run({"model": {"random_weights": True}})
    assert [*plan_problems(run)] == [
        "justify: model.random_weights leaves no trained model to judge; set it to false"
    ]


def test_its_report_shows_no_curve_of_a_training_that_it_did_not_read():
    from deepseemoe.report.names import figure_names

    assert "training_model" in figure_names(load_run({}))
    assert "training_model" not in figure_names(load_run({"model": {"random_weights": True}}))
