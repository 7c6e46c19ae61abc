"""Planned bytes are those that the library's own writers leave on the disk."""

from types import SimpleNamespace

import pytest
from made_run import SMALL, bytes_on_disk, live, small_model, write_dictionary, write_split

from deepseemoe.activations import writer
from deepseemoe.activations.pool import Pool
from deepseemoe.activations.store import ActivationStore
from deepseemoe.config import load_run
from deepseemoe.dictionary.evaluate import evaluate_dictionary
from deepseemoe.names import SPLITS
from deepseemoe.plan import uses
from deepseemoe.plan.dictionaries import shapes_of
from deepseemoe.plan.disk import disk_figures
from deepseemoe.plan.memory import pool_bytes
from deepseemoe.plan.network import read_network
from deepseemoe.plan.source import checkpoint_of
from deepseemoe.plan.stores import array_bytes, arrays_of, row_bytes, split_bytes


@pytest.fixture(scope="module")
def network():
    return read_network(checkpoint_of(SMALL))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the stores of each split."""
    folder = tmp_path_factory.mktemp("made")
    return {split: write_split(SMALL, folder, split) for split in SPLITS}


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_of_stores_takes_the_planned_bytes(split, made, network):
    planned = split_bytes(SMALL, arrays_of(SMALL, network), split)
    assert planned == pytest.approx(sum(map(bytes_on_disk, made[split])), rel=0.02)


def test_every_array_takes_the_planned_bytes_to_the_last(made, network):
    path = made["train"][0]
    arrays = arrays_of(SMALL, network)
    store = ActivationStore(path)
    assert {spec.name for spec in arrays} == {n for n in store.names if "statistics" not in n}
    for spec in arrays:
        planned = array_bytes(spec, store.n_tokens, SMALL.activations)
        assert planned == bytes_on_disk(path / spec.name / "c"), spec.name


def test_shards_that_end_in_a_part_of_a_window_are_counted_in_whole_chunks(made, network):
    n_tokens = 9_984 - 2 * 4096  # a window of 1,024 and one of 768
    path = made["train"][-1]
    for spec in arrays_of(SMALL, network):
        planned = array_bytes(spec, n_tokens, SMALL.activations)
        assert planned == bytes_on_disk(path / spec.name / "c"), spec.name


@pytest.mark.parametrize("place", range(4), ids=[s.label for s in shapes_of(SMALL, d_model=64)])
def test_a_dictionary_takes_the_planned_bytes(place, tmp_path):
    shape = shapes_of(SMALL, d_model=64)[place]
    trainer = write_dictionary(shape, tmp_path)
    tensors = list(trainer.weights.tensors())
    assert shape.n_parameters == sum(tensor.numel() for tensor in tensors)
    weights = bytes_on_disk(tmp_path / "weights.safetensors")
    assert shape.file_bytes == pytest.approx(weights, rel=0.01)
    assert shape.checkpoint_bytes == pytest.approx(bytes_on_disk(tmp_path / "checkpoint"), rel=0.01)
    held = [*tensors, *trainer._adam.first, *trainer._adam.second, trainer.silent_F]
    assert shape.held_bytes == sum(t.numel() * t.element_size() for t in held)


def test_the_pool_of_live_training_is_the_planned_one():
    run = live(SMALL, buffer_tokens=10_000)
    shapes = shapes_of(run, d_model=64)
    sites = sorted({site for shape in shapes for site in shape.sites})
    pool = Pool(
        small_model(run),
        SimpleNamespace(sequence_length=run.corpus.sequence_length),
        sites,
        device="cpu",
        buffer_tokens=10_000,
        batch_sequences=1,
        norm_outlier=10,
        seed=0,
    )
    ring = sum(tensor.numel() * tensor.element_size() for tensor in pool._ring.values())
    assert pool_bytes(run, shapes) == ring


def test_a_token_of_gpt_oss_counts_as_by_hand(published):
    model = {"source": "hub", "name": "openai/gpt-oss-20b"}
    run = load_run({"model": model, "windows": ["L10-L12"], "dictionaries": {"crosscoder": {}}})
    arrays = arrays_of(run, published("gpt-oss-20b"))
    sites, routing, token = 3 * 2880 * 2, 14 * 4 * (1 + 2), 4 * 4 + 1
    logits = 14 * 32 * 4
    assert row_bytes(arrays) == sites + routing + logits + token == 19_257


def test_live_training_keeps_no_store_of_the_train_split(network):
    cached, kept = (
        {f.name: f.value for f in disk_figures(run, network, shapes_of(run, d_model=64))}
        for run in (SMALL, live(SMALL))
    )
    assert kept["activations train"] == 0
    assert kept["activations test"] == cached["activations test"] > 0


def test_what_the_plan_knows_of_other_modules_is_still_so():
    defaults = evaluate_dictionary.__kwdefaults__
    assert defaults["batch_sequences"] == uses.EVALUATION_SEQUENCES
    assert defaults["max_tokens"] == 32_768
    assert writer._N_BUFFERS == uses.N_BUFFERS


def test_a_control_takes_the_drawn_model_more_on_disk_and_in_ram(network):
    control = SMALL.model_copy(
        update={"model": SMALL.model.model_copy(update={"random_weights": True})}
    )
    shapes = shapes_of(SMALL, d_model=64)
    plain = {figure.name: figure.value for figure in disk_figures(SMALL, network, shapes)}
    asked = {figure.name: figure.value for figure in disk_figures(control, network, shapes)}
    n_bytes = 4 * small_model(SMALL).network.num_parameters()
    assert asked.pop("random model") == pytest.approx(n_bytes, rel=0.02)
    assert asked["all"] - plain["all"] == pytest.approx(n_bytes, rel=0.02)
    rules = {use.rule for use in uses.uses_of(control, network, shapes)}
    assert rules - {use.rule for use in uses.uses_of(SMALL, network, shapes)} == {"randomise_model"}


def test_rounds_bound_the_stores_of_the_train_split(made, network):
    in_rounds = SMALL.model_copy(
        update={"batches": SMALL.batches.model_copy(update={"round_shards": 1})}
    )
    shapes = shapes_of(SMALL, d_model=network.d_model)
    figures = {f.name: f for f in disk_figures(in_rounds, network, shapes)}
    largest_two = sorted(map(bytes_on_disk, made["train"]))[-2:]
    assert len(made["train"]) > 2
    bound = figures["activations train"]
    assert bound.value == pytest.approx(sum(largest_two), rel=0.02)
    assert f"2 of {len(made['train'])} rounds" in bound.how
