"""Files of peers, written by hand, are read as their makers mean them, or refused in one line."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from made_dictionaries import close, dense, output
from peer_folders import D_IN, D_SAE, expected, learned, numbers, sae_lens

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import TopK
from deepseemoe.interop.importing import import_dictionary, import_problem, read_dictionary
from deepseemoe.names import Window

LAYER = Window(5, 5)
THRESHOLD_F = torch.linspace(0.1, 1.0, D_SAE)


def inputs(n_tokens=100):
    return 2 * torch.randn(n_tokens, D_IN, generator=torch.Generator().manual_seed(9))


def check(dictionary, **meaning):
    """Assert that a dictionary does what the peer's formula gives."""
    assert (dictionary.kind, dictionary.reads, dictionary.window) == (
        "crosscoder",
        "resid_post",
        LAYER,
    )
    z_TF, y_TC = expected(inputs(), **meaning)
    assert 0 < (z_TF > 0).float().mean() < 1
    close(dense(dictionary, inputs()[:, None]), z_TF)
    close(output(dictionary, inputs()[:, None])[:, 0], y_TC)


@pytest.mark.parametrize("subtracts", [True, False])
def test_a_standard_sae_of_sae_lens(subtracts, tmp_path):
    folder = sae_lens(tmp_path, apply_b_dec_to_input=subtracts)
    check(read_dictionary(folder, format="saelens", window=LAYER), subtracts=subtracts)


def test_a_file_of_sae_lens_from_before_version_6(tmp_path):
    """Flat keys, an architecture that goes without saying, TopK as an activation function."""
    folder = sae_lens(
        tmp_path,
        drop=("architecture", "metadata", "apply_b_dec_to_input"),
        hook_point="blocks.6.hook_resid_pre",
        activation_fn_str="topk",
        activation_fn_kwargs={"k": 2},
    )
    dictionary = read_dictionary(folder, format="saelens", window=LAYER)
    assert (dictionary.gate, dictionary.k) == (TopK(2, weighted=False), 2)
    check(dictionary, k=2)


def test_thresholds_of_sae_lens_are_compared_without_equality(tmp_path):
    """Numbers that float32 has exactly: each feature is one column of the input."""
    tensors = {
        "W_enc": torch.eye(D_IN)[:, :D_SAE],
        "b_enc": torch.zeros(D_SAE),
        "b_dec": torch.zeros(D_IN),
        "threshold": torch.full((D_SAE,), 0.5),
    }
    folder = sae_lens(tmp_path, "jumprelu", tensors=tensors)
    above = float(torch.nextafter(torch.tensor(0.5), torch.tensor(1.0)))
    x = torch.zeros(1, 1, D_IN)
    x[0, 0, :3] = torch.tensor([0.5, above, 0.25])
    found = dense(read_dictionary(folder, format="saelens", window=LAYER), x)
    assert found.tolist() == [[0.0, above, 0.0, 0.0, 0.0, 0.0]]


def test_a_training_checkpoint_of_sae_lens_has_one_threshold_on_scores(tmp_path):
    norm_F = torch.linalg.vector_norm(numbers()[2], dim=1)
    tensors = {"topk_threshold": torch.tensor(0.8, dtype=torch.float64)}
    folder = sae_lens(
        tmp_path, "batchtopk", tensors=tensors, k=2.0, rescale_acts_by_decoder_norm=True
    )
    dictionary = read_dictionary(folder, format="saelens", window=LAYER)
    z_TF, _ = expected(inputs())
    scores_TF = z_TF * norm_F
    close(dense(dictionary, inputs()[:, None]), scores_TF * (scores_TF > 0.8))
    assert dictionary.k == 2


def test_a_batch_topk_sae_of_dictionary_learning(tmp_path):
    dictionary = read_dictionary(learned(tmp_path), format="dictionary_learning", window=LAYER)
    assert (dictionary.k, dictionary.activation) == (2, "batch_topk")
    check(dictionary, threshold=0.5)


def test_a_topk_autoencoder_of_dictionary_learning_ignores_its_threshold(tmp_path):
    folder = learned(tmp_path, "AutoEncoderTopK")
    check(read_dictionary(folder, format="dictionary_learning", window=LAYER), k=2)


def test_an_autoencoder_of_dictionary_learning_in_bfloat16(tmp_path):
    *_, b_dec = numbers()
    tensors = {"bias": b_dec}
    folder = learned(tmp_path, "AutoEncoder", tensors=tensors, drop=("b_dec", "k", "threshold"))
    check(read_dictionary(folder, format="dictionary_learning", window=LAYER))
    state = torch.load(folder / "ae.pt", weights_only=True)
    torch.save({name: t.bfloat16() for name, t in state.items()}, folder / "ae.pt")
    found = read_dictionary(folder, format="dictionary_learning", window=LAYER)
    assert found.weights.encoders[0].dtype == torch.float32


def test_a_jumprelu_autoencoder_of_dictionary_learning_subtracts_nothing(tmp_path):
    encoder, b_enc, decoder, b_dec = numbers()
    state = {"W_enc": encoder.t(), "b_enc": b_enc, "W_dec": decoder, "b_dec": b_dec}
    state["threshold"] = torch.full((D_SAE,), 0.3)
    folder = learned(tmp_path, "JumpReluAutoEncoder")
    torch.save({k: v.contiguous() for k, v in state.items()}, folder / "ae.pt")
    dictionary = read_dictionary(folder, format="dictionary_learning", window=LAYER)
    check(dictionary, subtracts=False, threshold=0.3)


def test_an_import_is_a_dictionary_as_training_leaves_it(tmp_path):
    source = sae_lens(tmp_path / "sae", "jumprelu", tensors={"threshold": THRESHOLD_F})
    made = import_dictionary(
        source, format="saelens", window=LAYER, folder=tmp_path / "ours", k=3, d_model=D_IN
    )
    again = Dictionary.load(tmp_path / "ours")
    assert (again.k, again.l0, again.d_model, again.d_dict) == (3, None, D_IN, D_SAE)
    close(dense(again, inputs()[:, None]), dense(made, inputs()[:, None]))


def andyrdt():
    """Return the configurations of andyrdt's gpt-oss sweeps, or skip."""
    beside = Path(__file__).parents[4] / "shared" / "data"
    files = sorted((Path(os.environ.get("DEEPSEEMOE_DATA", beside)) / "andyrdt_sae").glob("*.json"))
    return files or pytest.skip("no andyrdt_sae; DEEPSEEMOE_DATA names the folder of real data")


@pytest.mark.parametrize("is_sweep", [True, False])
def test_an_sae_with_the_configuration_of_the_gpt_oss_saes(is_sweep, tmp_path):
    """Beside `ae.pt` stands the sweep's own file, or what the trainer writes in such a sweep."""
    for file in andyrdt():
        sweep = json.loads(file.read_text())
        (layer,), k = sweep["layers"], sweep["target_l0s"][0]
        trainer = {
            "dict_class": "BatchTopKSAE",
            "k": 2,
            "layer": layer,
            "lm_name": sweep["model_name"],
            "lr": sweep["learning_rates"][0],
            "submodule_name": f"resid_post_layer_{layer}",
        }
        folder = learned(tmp_path / file.stem, trainer=trainer, config=sweep if is_sweep else None)
        window = Window(layer, layer)
        dictionary = read_dictionary(folder, format="dictionary_learning", window=window)
        assert (dictionary.window, dictionary.k, k) == (window, 2, 64)
        z_TF, _ = expected(inputs(), threshold=0.5)
        close(dense(dictionary, inputs()[:, None]), z_TF)
        with pytest.raises(ValueError, match=rf"resid_post of L{layer:02d} .* window is L05-L05"):
            read_dictionary(folder, format="dictionary_learning", window=LAYER)


def test_an_untrained_threshold_is_told(tmp_path, caplog):
    folder = learned(tmp_path, tensors={"threshold": torch.tensor(-1.0)})
    check(read_dictionary(folder, format="dictionary_learning", window=LAYER))
    assert "threshold -1 was never set" in caplog.text


METADATA = {"sae_lens_version": "6.54.12"}
WRONG_LENS = [
    ({"architecture": "temporal"}, "architecture 'temporal'; can be imported: standard, topk"),
    ({"drop": ("d_sae",)}, "cfg.json: no key 'd_sae'; found architecture, d_in"),
    ({"d_in": "4"}, "cfg.json: d_in is '4', expected int"),
    ({"d_sae": 7}, r"W_dec has the shape \(6, 8\), expected \(7, 8\)"),
    ({"drop": ("W_dec",)}, "no tensor 'W_dec'; found W_enc, b_dec, b_enc"),
    ({"architecture": "jumprelu"}, "no tensor 'threshold'; found"),
    ({"architecture": "topk"}, "cfg.json: no key 'k'"),
    (
        {"normalize_activations": "layer_norm"},
        "normalize_activations 'layer_norm', expected 'none'",
    ),
    ({"normalize_activations": "expected_average_only_in"}, "fold it in SAELens"),
    ({"reshape_activations": "hook_z"}, "reshape_activations 'hook_z', expected 'none'"),
    ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor is set"),
    (
        {"metadata": METADATA | {"hook_name": "blocks.5.hook_mlp_out"}},
        "it reads 'blocks.5.hook_mlp_out'; only dictionaries of the residual stream",
    ),
    (
        {"metadata": METADATA | {"hook_name": "blocks.6.hook_resid_post"}},
        "it reads resid_post of L06 .* and the window is L05-L05; expected L06-L06",
    ),
    ({"tensors": {"b_dec": torch.full((D_IN,), torch.nan)}}, "holds NaN or infinite numbers"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_LENS)
def test_what_sae_lens_cannot_mean_is_refused_in_one_line(change, message, tmp_path):
    folder = sae_lens(tmp_path, **change)
    with pytest.raises(ValueError, match=message) as told:
        read_dictionary(folder, format="saelens", window=LAYER)
    assert "\n" not in str(told.value)
    assert str(tmp_path) in str(told.value)


WRONG_LEARNED = [
    ({"drop": ("b_dec",)}, "ae.pt: no tensor 'b_dec'; found decoder.weight, encoder.bias"),
    ({"drop": ("threshold",)}, "ae.pt: no tensor 'threshold'"),
    ({"tensors": {"b_dec": torch.zeros(5)}}, r"b_dec has the shape \(5,\), expected \(8,\)"),
    ({"tensors": {"encoder.weight": torch.zeros(6)}}, r"has the shape \(6,\), expected a matrix"),
    ({"trainer": {"activation_dim": 9}}, "activation_dim is 8, expected 9 by .*config.json"),
    ({"trainer": {"k": 3}}, "k is 2, expected 3 by"),
    ({"trainer": {"dict_class": "CrossCoder"}}, "dict_class 'CrossCoder'; can be imported: Auto"),
    ({"trainer": {"submodule_name": "mlp_out_layer_5"}}, "it reads 'mlp_out_layer_5'; only"),
    ({"config": {"a": 1}}, "no key 'trainer.dict_class'; found a"),
    ({"config": [1]}, "config.json: holds a list; expected keys and values"),
    (
        {"config": {"architectures": ["top_k", "gated"], "layers": [5]}},
        r"architectures \['top_k', 'gated'\] on layers \[5\]; expected one layer and one of",
    ),
]


@pytest.mark.parametrize(("change", "message"), WRONG_LEARNED)
def test_what_dictionary_learning_cannot_mean_is_refused_in_one_line(change, message, tmp_path):
    folder = learned(tmp_path, **change)
    with pytest.raises(ValueError, match=message) as told:
        read_dictionary(folder, format="dictionary_learning", window=LAYER)
    assert "\n" not in str(told.value)
    assert str(tmp_path) in str(told.value)


class Harmful:
    """What runs code where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_a_file_that_would_run_code_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = learned(tmp_path / "sae")
    torch.save({"encoder.weight": Harmful()}, folder / "ae.pt")
    with pytest.raises(ValueError, match="holds more than tensors, which is not read"):
        read_dictionary(folder, format="dictionary_learning", window=LAYER)
    (folder / "ae.pt").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match=r"ae\.pt"):
        read_dictionary(folder, format="dictionary_learning", window=LAYER)
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    ("write", "format", "weights", "config"),
    [
        (sae_lens, "saelens", "sae_weights.safetensors", "cfg.json"),
        (learned, "dictionary_learning", "ae.pt", "config.json"),
    ],
)
def test_files_that_are_missing_or_cut_are_told(write, format, weights, config, tmp_path):
    def told(match):
        with pytest.raises(ValueError, match=match) as error:
            read_dictionary(tmp_path / "sae", format=format, window=LAYER)
        assert "\n" not in str(error.value)

    told(f"sae: no dictionary of {format.replace('saelens', 'SAELens')}: no {config} .there is no")
    folder = write(tmp_path / "sae")
    whole = (folder / weights).read_bytes()
    (folder / weights).write_bytes(whole[: len(whole) // 2])
    told(f"{weights}: .*damaged")
    (folder / weights).unlink()
    told(f"{weights}: no such file")
    (folder / config).write_text('{"a": ')
    told(f"{config}: not JSON")
    (folder / config).unlink()
    told("the folder is empty")


def test_a_file_that_does_not_say_what_it_reads_is_of_one_layer(tmp_path):
    folder = sae_lens(tmp_path, metadata=METADATA)
    check(read_dictionary(folder, format="saelens", window=LAYER))
    with pytest.raises(ValueError, match="taken for one layer; found window L05-L06"):
        read_dictionary(folder, format="saelens", window=Window(5, 6))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"d_model": 5}, "d_model is 8, and the configuration says 5"),
        ({"d_dict": 7}, "d_dict is 6, and the configuration says 7"),
        ({"k": 9}, "k is 2, and the configuration says 9"),
    ],
)
def test_other_sizes_than_configured_leave_nothing_behind(wanted, message, tmp_path):
    source = learned(tmp_path / "sae")
    with pytest.raises(ValueError, match=message):
        import_dictionary(
            source,
            format="dictionary_learning",
            window=LAYER,
            folder=tmp_path / "ours",
            **wanted,
        )
    assert not (tmp_path / "ours").exists()


def test_headers_tell_what_would_go_wrong(tmp_path):
    source = learned(tmp_path / "sae")

    def problem(folder=source, window=LAYER, d_model=D_IN, d_dict=D_SAE):
        return import_problem(
            folder, format="dictionary_learning", window=window, d_model=d_model, d_dict=d_dict
        )

    assert problem() is None
    assert "made for a d_model of 8, and the model has 16" in problem(d_model=16)
    assert "has 6 features, and d_dict is 1024; write 6" in problem(d_dict=1024)
    assert "resid_post of L05" in problem(window=Window(6, 6))
    assert "there is no such folder" in problem(folder=tmp_path / "nowhere")
