"""Splicing: exact reconstructions change nothing, zeros recover nothing, invalid rows stay."""

from dataclasses import replace

import pytest
import torch
from small_moe import (
    D_MODEL,
    LENGTH,
    N_LAYERS,
    N_SEQUENCES,
    identity_crosscoder,
    random_transcoder,
    small_model,
    tokens_of,
    write_split,
)

from deepseemoe.activations.store import ActivationStore
from deepseemoe.dictionary.evaluate import evaluate_dictionary, stored_metrics
from deepseemoe.dictionary.gates import Weighted
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.dictionary.site_names import site_names
from deepseemoe.dictionary.splice import crosscoder_edits, transcoder_edits
from deepseemoe.dictionary.splice_metrics import splice_batches
from deepseemoe.model.losses import next_token_loss
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.names import Window
from deepseemoe.runtime.files import read_json

WINDOW = Window(1, 2)
SITES = [f"{p}/L{n:02d}" for p in ("resid_post", "moe_in", "moe_out") for n in range(N_LAYERS)]


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def split(model, tmp_path_factory):
    return write_split(tmp_path_factory.mktemp("split"), model, SITES)


@pytest.fixture
def evaluate(model, split, tmp_path):
    def evaluated(dictionary, **options):
        dictionary.save(tmp_path / "dictionary")
        path = tmp_path / "dictionary" / "metrics.json"
        values = evaluate_dictionary(
            tmp_path / "dictionary",
            model=model, stores=split.stores, tokens=split.tokens, metrics=path, **options,
        )  # fmt: skip
        assert read_json(path) == values
        return values

    return evaluated


def all_zero(dictionary):
    """Return a dictionary that always writes zeros."""
    weights = dictionary.weights
    for tensor in (*weights.decoders, weights.decoder_bias, dictionary.writing.mean_LD):
        tensor.zero_()
    return dictionary


def batch_of(seed=0):
    tokens = tokens_of(seed)
    return TokenBatch.from_arrays(tokens.token_ids_SN, tokens.positions_SN)


def test_an_exact_dictionary_changes_nothing(evaluate):
    values = evaluate(identity_crosscoder(WINDOW))
    assert values["fvu"] == pytest.approx([0, 0], abs=1e-9)
    assert values["loss_recovered"] == pytest.approx(1, abs=1e-5)
    assert values["kl_recovered"] == pytest.approx(1, abs=1e-5)
    assert values["router_agreement"] == 1
    assert values["routing_kl"] == pytest.approx(0, abs=1e-6)
    assert values["router_layers"] == [2, 3]
    assert values["l0"] == pytest.approx(2 * D_MODEL, abs=0.1)
    assert values["dead_fraction"] == 0
    assert values["layers"] == [1, 2]
    assert values["n_tokens"] == values["n_spliced_tokens"] - 2 * 2 * N_SEQUENCES


def test_a_dictionary_of_zeros_is_the_ablation(evaluate):
    values = evaluate(all_zero(identity_crosscoder(WINDOW)))
    assert values["loss_recovered"] == pytest.approx(0, abs=1e-9)
    assert values["kl_recovered"] == pytest.approx(0, abs=1e-9)
    assert values["router_agreement"] < 0.95
    assert values["cross_entropy"]["spliced"] == values["cross_entropy"]["ablated"]


def test_a_transcoder_of_zeros_is_the_ablation_of_the_blocks(evaluate):
    values = evaluate(all_zero(random_transcoder(WINDOW)))
    assert values["loss_recovered"] == pytest.approx(0, abs=1e-9)
    assert values["router_agreement"] < 1
    assert values["kl"]["original"] == 0


def test_the_mean_has_an_fvu_of_1_on_the_test_split(split):
    stores = [ActivationStore(path) for path in split.stores]
    mean = Normalisation.of(stores, site_names("resid_post", WINDOW))
    dictionary = replace(
        identity_crosscoder(WINDOW), reading=mean, writing=mean, gate=Weighted(1e9)
    )
    values = stored_metrics(dictionary, stores)
    assert values["fvu"] == pytest.approx([1, 1], rel=1e-5)
    assert values["l0"] == 0
    assert values["dead_fraction"] == 1


def test_the_original_cross_entropy_is_the_models_own_loss(evaluate, model):
    values = evaluate(identity_crosscoder(WINDOW), max_tokens=LENGTH * N_SEQUENCES)
    batch = batch_of()
    head = model.network.get_output_embeddings().weight
    loss = next_token_loss(model.hidden_states(batch), head, *batch)
    assert values["cross_entropy"]["original"] == pytest.approx(float(loss), rel=1e-5)
    assert values["n_spliced_tokens"] == LENGTH * N_SEQUENCES


def test_batch_sizes_do_not_change_the_metrics(evaluate):
    one = evaluate(random_transcoder(WINDOW), batch_sequences=1)
    many = evaluate(random_transcoder(WINDOW), batch_sequences=5)
    for name in ("loss_recovered", "kl_recovered", "router_agreement", "routing_kl"):
        assert one[name] == pytest.approx(many[name], rel=1e-4)


@pytest.mark.parametrize("kind", ["crosscoder", "transcoder"])
def test_rows_that_are_not_valid_stay_as_they_are(kind, model):
    batch = batch_of()
    is_valid = (batch.positions != 0).flatten()
    point = "resid_post" if kind == "crosscoder" else "moe_out"
    sites = [f"{point}/L{layer:02d}" for layer in WINDOW.layers]
    with model.record(sites) as clean:
        model.hidden_states(batch)
    if kind == "crosscoder":
        edits = crosscoder_edits(all_zero(identity_crosscoder(WINDOW)), clean, is_valid)
    else:
        edits = transcoder_edits(all_zero(random_transcoder(WINDOW)), is_valid)
    with model.edit(edits), model.record(sites) as spliced:
        model.hidden_states(batch)
    assert all(spliced[site][is_valid].abs().max() == 0 for site in sites)
    assert torch.equal(spliced[sites[0]][~is_valid], clean[sites[0]][~is_valid])
    assert spliced[sites[1]][~is_valid].abs().min(1).values.min() > 0


def test_a_transcoder_encodes_what_the_replaced_layers_before_lead_to(model):
    dictionary = random_transcoder(WINDOW)
    batch = batch_of()
    is_valid = (batch.positions != 0).flatten()

    def run(edits):
        with model.edit(edits), model.record(SITES) as acts:
            model.hidden_states(batch)
        return acts

    def reconstructed(acts):
        x_TLD = torch.stack([acts[f"moe_in/L{layer:02d}"] for layer in WINDOW.layers], dim=1)
        return dictionary.decode(dictionary.encode(x_TLD))

    def put(rows_TD):
        return lambda value: torch.where(is_valid[:, None], rows_TD, value)

    clean = run({})
    first = put(reconstructed(clean)[:, 0])
    halfway = run({"moe_out/L01": first})
    assert not torch.equal(halfway["moe_in/L02"], clean["moe_in/L02"])
    expected = run({"moe_out/L01": first, "moe_out/L02": put(reconstructed(halfway)[:, 1])})
    found = run(transcoder_edits(dictionary, is_valid))
    for site in SITES:
        torch.testing.assert_close(found[site], expected[site], rtol=1e-4, atol=1e-4)


def test_a_window_that_ends_the_model_has_no_routers_behind_it(evaluate):
    values = evaluate(identity_crosscoder(Window(N_LAYERS - 1, N_LAYERS - 1)))
    assert values["router_layers"] == []
    assert values["router_agreement"] is None
    assert values["routing_kl"] is None
    assert values["loss_recovered"] == pytest.approx(1, abs=1e-5)


def test_stores_of_other_tokens_are_refused(split):
    stores = [ActivationStore(path) for path in split.stores]
    swapped = splice_batches(stores, split.tokens[::-1], max_tokens=10**6, batch_sequences=4)
    with pytest.raises(ValueError, match=r"store-0.zarr: its tokens are not those of .*tokens-1"):
        next(swapped)


def test_the_same_dictionary_gives_the_same_bytes(evaluate, tmp_path):
    path = tmp_path / "dictionary" / "metrics.json"
    evaluate(random_transcoder(WINDOW))
    first = path.read_bytes()
    evaluate(random_transcoder(WINDOW))
    assert path.read_bytes() == first
