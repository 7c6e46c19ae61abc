"""Exports: what the files hold, what is refused, and that nothing is ever half there."""

import json

import pytest
import torch
import yaml
from made_dictionaries import (
    D_DICT,
    D_MODEL,
    FIRST,
    GATES,
    KINDS,
    K,
    close,
    dense,
    made,
    output,
    raw,
)
from safetensors.torch import load_file

from deepseemoe.interop import circuit_tracer, exporting
from deepseemoe.interop.exporting import WRITERS, export_dictionary
from deepseemoe.interop.importing import read_dictionary

DEPTH = 7


def export(dictionary, to, folder, **options):
    dictionary.save(folder / "ours")
    return export_dictionary(folder / "ours", format=to, folder=folder / "theirs", **options)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("kind", ["sae", "crosscoder"])
@pytest.mark.parametrize("to", ["saelens", "dictionary_learning"])
def test_an_sae_comes_back_as_it_went(to, kind, gate, tmp_path):
    dictionary = made(kind, gate)
    folder = export(dictionary, to, tmp_path)
    again = read_dictionary(folder, format=to, window=dictionary.window)
    x = raw(dictionary)
    close(output(again, x), output(dictionary, x))
    assert torch.equal(dense(again, x) > 0, dense(dictionary, x) > 0)
    assert again.k == K


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_code_of_the_model_card_gives_the_same_output(kind, gate, tmp_path, monkeypatch):
    dictionary = made(kind, gate)
    folder = export(dictionary, "portable", tmp_path)
    code = (folder / "README.md").read_text().split("```python")[1].split("```")[0]
    monkeypatch.chdir(folder)
    names = {"x": raw(dictionary)}
    exec(code, names)
    close(names["output"], output(dictionary, raw(dictionary)))
    close(names["z"] * names["active"], dense(dictionary, raw(dictionary)))


def clt_output(folder, x_LTD):
    """Return what a CLT puts out, by the formulas of circuit-tracer's documentation."""
    outputs = []
    for layer in range(len(x_LTD)):
        held = load_file(folder / f"W_enc_{layer}.safetensors")
        z_TF = x_LTD[layer] @ held[f"W_enc_{layer}"].t() + held[f"b_enc_{layer}"]
        z_TF = z_TF * (z_TF > held[f"threshold_{layer}"])
        decoder_FLD = load_file(folder / f"W_dec_{layer}.safetensors")[f"W_dec_{layer}"]
        assert decoder_FLD.shape == (len(held[f"b_enc_{layer}"]), len(x_LTD) - layer, D_MODEL)
        outputs.append((z_TF, decoder_FLD, held[f"b_dec_{layer}"]))
    result = torch.stack([bias.expand(x_LTD.shape[1], -1) for *_, bias in outputs])
    for layer, (z_TF, decoder_FLD, _) in enumerate(outputs):
        result[layer:] += torch.einsum("tf,fld->ltd", z_TF, decoder_FLD)
    return result


def set_output(folder, x_LTD):
    """Return what a set of per-layer transcoders puts out."""
    outputs = []
    for layer, x_TD in enumerate(x_LTD):
        held = load_file(folder / f"layer_{layer}.safetensors")
        z_TF = x_TD @ held["W_enc"].t() + held["b_enc"]
        z_TF = z_TF * (z_TF > held["activation_function.threshold"])
        y_TD = z_TF @ held["W_dec"] + held["b_dec"]
        outputs.append(y_TD + x_TD @ held["W_skip"].t() if "W_skip" in held else y_TD)
    return torch.stack(outputs)


@pytest.mark.parametrize("gate", ["batch_topk", "jumprelu", "relu"])
@pytest.mark.parametrize("kind", ["transcoder", "per_layer", "clt", "skip", "skip_per_layer"])
def test_circuit_tracer_gets_every_layer_of_the_model(kind, gate, tmp_path):
    dictionary = made(kind, gate)
    folder = export(dictionary, "circuit_tracer", tmp_path, n_layers=DEPTH, model="my/moe")
    x = raw(dictionary)
    inputs = torch.randn(DEPTH, len(x), D_MODEL)
    window = slice(FIRST, FIRST + dictionary.n_layers)
    inputs[window] = x.transpose(0, 1)
    found = (clt_output if kind == "clt" else set_output)(folder, inputs).transpose(0, 1)
    close(found[:, window], output(dictionary, x))
    outside = circuit_tracer.padded_layers(dictionary, DEPTH)
    assert not found[:, outside].any()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["deepseemoe"]["padded_layers"] == outside
    assert config["feature_input_hook"] == "mlp.hook_in"
    assert (
        f"PADDED: layers {', '.join(map(str, outside))} of {DEPTH}"
        in (folder / "README.md").read_text()
    )


def test_sae_lens_is_told_its_version_and_the_hooks(tmp_path):
    folder = export(made("crosscoder"), "saelens", tmp_path, model="my/moe")
    config = json.loads((folder / "cfg.json").read_text())
    assert (config["architecture"], config["d_in"], config["d_sae"]) == (
        "jumprelu",
        3 * D_MODEL,
        D_DICT,
    )
    assert config["apply_b_dec_to_input"] is False
    metadata = config["metadata"]
    assert int(metadata["sae_lens_version"].split(".")[0]) >= 6
    assert metadata["model_name"] == "my/moe"
    assert metadata["hook_names"] == [f"blocks.{n}.hook_resid_post" for n in (2, 3, 4)]


def test_sparsify_says_that_batch_topk_is_an_approximation_there(tmp_path):
    folder = export(made("sae"), "sparsify", tmp_path)
    config = json.loads((folder / f"layers.{FIRST}" / "cfg.json").read_text())
    assert (config["k"], config["d_in"], config["num_latents"]) == (K, D_MODEL, D_DICT)
    assert config["deepseemoe"]["note"].startswith("APPROXIMATE")
    assert "APPROXIMATE" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("kind", "gate", "to", "message"),
    [
        ("sae", "jumprelu", "sparsify", "its features have thresholds .jumprelu., and no k"),
        ("sae", "relu", "sparsify", "its features have thresholds .relu., and no k"),
        ("clt", "topk", "sparsify", "its features write several layers"),
        ("pre_post", "topk", "sparsify", "writes what it reads as well"),
        ("clt", "topk", "saelens", "keeps the k highest features of a transcoder's token"),
        ("clt", "batch_topk", "dictionary_learning", "its features write several layers"),
        ("pre_post", "batch_topk", "dictionary_learning", "writes what it reads as well"),
        ("skip", "batch_topk", "dictionary_learning", "it has skip connections"),
        ("crosscoder", "batch_topk", "circuit_tracer", "reconstructs the residual stream"),
        ("clt", "topk", "circuit_tracer", "keeps the k highest features"),
        ("pre_post", "batch_topk", "circuit_tracer", "writes what it reads as well"),
        ("skip_clt", "batch_topk", "circuit_tracer", "load_clt .* reads no skip connections"),
    ],
)
def test_what_a_format_cannot_say_is_refused_and_leaves_nothing(kind, gate, to, message, tmp_path):
    with pytest.raises(ValueError, match=message) as told:
        export(made(kind, gate), to, tmp_path, n_layers=DEPTH if "circuit" in to else None)
    assert "\n" not in str(told.value)
    assert "export it --to portable" in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "add --n-layers N, the number of layers of the model"),
        ({"n_layers": 4}, "--n-layers 4: the window L02-L04 goes beyond it"),
    ],
)
def test_circuit_tracer_wants_the_depth_of_the_model(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(made("clt"), "circuit_tracer", tmp_path, **options)


def test_a_folder_that_holds_something_is_not_replaced(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="theirs: already there; name a folder that is new"):
        export(made("sae"), "saelens", tmp_path)
    assert (tmp_path / "theirs" / "mine.txt").read_text() == "precious"


def test_an_export_that_is_cut_off_leaves_no_folder_and_can_be_made_again(tmp_path, monkeypatch):
    def fails(dictionary, folder, *, model):
        WRITERS["saelens"](dictionary, folder, model=model)
        raise OSError("no space left on device")

    monkeypatch.setitem(exporting.WRITERS, "portable", fails)
    with pytest.raises(OSError, match="no space left"):
        export(made("sae"), "portable", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]
    (tmp_path / "theirs.partial").mkdir()  # of a process that was killed
    (tmp_path / "theirs.partial" / "half").write_text("")
    monkeypatch.undo()
    folder = export(made("sae"), "portable", tmp_path)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "config.json", "dictionary.safetensors"]


@pytest.mark.parametrize("to", WRITERS)
def test_the_same_dictionary_gives_the_same_bytes(to, tmp_path):
    dictionary = made("transcoder", "topk" if to == "sparsify" else "batch_topk")
    dictionary.save(tmp_path / "ours")
    depth = {"n_layers": DEPTH} if to == "circuit_tracer" else {}
    for name in ("one", "two"):
        export_dictionary(tmp_path / "ours", format=to, folder=tmp_path / name, **depth)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert files
    for file in files:
        if (tmp_path / "one" / file).is_file():
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
