"""A run of published SAEs makes maps, and trains no dictionary."""

import json

import pytest
import torch
import yaml
from runs import ROOT, planned, prepare, snakemake

D_MODEL, D_DICT, K = 32, 96, 8


def published(folder, layer):
    """Write a random SAE as dictionary_learning does."""
    rng = torch.Generator().manual_seed(layer)
    directions = torch.nn.functional.normalize(torch.randn(D_DICT, D_MODEL, generator=rng), dim=1)
    state = {
        "k": torch.tensor(K, dtype=torch.int32),
        "threshold": torch.tensor(-1.0),
        "encoder.weight": directions,
        "encoder.bias": torch.zeros(D_DICT),
        "decoder.weight": directions.t().contiguous(),
        "b_dec": torch.zeros(D_MODEL),
    }
    home = folder / f"resid_post_layer_{layer}"
    home.mkdir()
    torch.save(state, home / "ae.pt")
    trainer = {"dict_class": "AutoEncoderTopK", "layer": layer, "k": K, "activation_dim": D_MODEL}
    (home / "config.json").write_text(json.dumps({"trainer": trainer}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder to work in, and the configuration of a run of two published SAEs."""
    workdir = prepare(tmp_path_factory.mktemp("imported"))
    for layer in (0, 1):
        published(workdir, layer)
    run = yaml.safe_load((ROOT / "tests/config/small.yaml").read_text())
    folder = f"{workdir}/resid_post_layer_{{layer}}"
    imported = {"format": "dictionary_learning", "folder": folder}
    run["model"]["training"] |= {"n_tokens": 32_768}
    run["windows"] = ["L00-L00", "L01-L01"]
    run["dictionaries"] = {"sae": {"imported": imported, "d_dict": D_DICT, "k": K}}
    config = workdir / "run.yaml"
    config.write_text(yaml.safe_dump(run))
    return workdir, config


def test_published_saes_end_in_maps_and_a_report(made):
    workdir, config = made
    plan = planned(workdir, config)
    assert plan["import_dictionary"] == 2
    assert plan["map_reads"] == 2
    assert not {"train_dictionary", "train_live"} & set(plan)
    done = snakemake(workdir, config)
    assert done.returncode == 0, done.stdout[-8000:]
    results = workdir / "results/small"
    for layer in (0, 1):
        window = f"L{layer:02d}-L{layer:02d}"
        metrics = json.loads((results / f"dictionary/sae/{window}/metrics.json").read_text())
        assert metrics["k"] == K
        assert K / 2 < metrics["l0"] <= K
        assert (results / f"experts/sae/{window}/reads.parquet").is_file()
    assert (results / "report/summary.html").is_file()
    assert not [*results.glob("activations/train/*")], "nothing needs a store of the train split"
    assert planned(workdir, config) == {}
    published_again = workdir / "resid_post_layer_1" / "config.json"
    published_again.write_text(published_again.read_text() + "\n")
    assert planned(workdir, config)["import_dictionary"] >= 1


def test_an_sae_of_another_model_is_told_in_one_line(made, tmp_path):
    _, config = made
    other = tmp_path / "other.yaml"
    other.write_text(config.read_text().replace("d_model: 32", "d_model: 64"))
    target = "results/small/dictionary/sae/L00-L00/weights.safetensors"
    done = snakemake(prepare(tmp_path / "work"), other, target)
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if "d_model" in line]
    assert len(lines) == 2, "one for each layer"
    for line in lines:
        assert line.startswith("dictionaries.sae.imported: ")
        assert line.endswith("made for a d_model of 32, and the model has 64")
    assert "Traceback" not in done.stdout
