"""A run with imported dictionaries is checked and planned before it runs."""

import pytest
from peer_folders import D_IN, D_SAE, learned

from deepseemoe.cli import main
from deepseemoe.config import load_run
from deepseemoe.plan.limits import limits_of
from deepseemoe.plan.network import read_network
from deepseemoe.plan.plan import make_plan
from deepseemoe.plan.source import checkpoint_of
from deepseemoe.preflight import problems


def run(folder, *, d_model=D_IN, d_dict=D_SAE, layer=5, **others):
    imported = {"format": "dictionary_learning", "folder": str(folder)}
    return load_run(
        {
            "windows": [f"L{layer:02d}-L{layer:02d}"],
            "model": {"architecture": {"d_model": d_model, "n_heads": 1, "n_layers": 8}},
            "dictionaries": {"sae": {"imported": imported, "d_dict": d_dict, "k": 2}, **others},
        }
    )


def test_a_run_whose_files_fit_has_no_problem(tmp_path):
    assert problems(run(learned(tmp_path))) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 16}, "made for a d_model of 8, and the model has 16"),
        ({"d_dict": 1024}, "has 6 features, and d_dict is 1024; write 6"),
        ({"layer": 6}, "it reads resid_post of L05"),
    ],
)
def test_check_tells_what_does_not_fit(change, message, tmp_path):
    (told,) = problems(run(learned(tmp_path), **change))
    assert told.startswith("dictionaries.sae.imported: ")
    assert message in told


def test_check_tells_of_a_folder_that_is_not_there(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(
        "windows: [L01-L01]\n"
        "dictionaries: {sae: {imported: {format: saelens, folder: 'no/{layer}'}}}\n"
    )
    assert main(["check", "--quiet", "run.yaml"]) == 1
    assert "dictionaries.sae.imported: no/1: no dictionary of SAELens" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["cache", "live"])
def test_a_plan_trains_no_imported_dictionary(source, tmp_path):
    def plan(**others):
        one = run(tmp_path, **others)
        batches = one.batches.model_copy(update={"source": source})
        one = one.model_copy(update={"batches": batches})
        network = read_network(checkpoint_of(one))
        limits = limits_of(one, gpu_gib=1000, ram_gib=10_000, disk_gib=1_000_000)
        return str(make_plan(one, network, limits).plain())

    alone, beside = plan(), plan(own={"d_dict": 16, "k": 2})
    assert "train_live" not in alone
    assert "train_dictionary" not in alone
    assert "encode_features" in alone
    assert ("train_live" if source == "live" else "train_dictionary") in beside
