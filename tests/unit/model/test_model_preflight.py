"""What a run asks of a model of others is looked for in its config.json, before anything runs."""

import json

import pytest
import torch
from tiny_moe import tiny_config

from deepseemoe.config import load_run
from deepseemoe.preflight import problems
from deepseemoe.runtime.gpus import Gpu, Gpus


def problems_of(folder, **changes) -> list[str]:
    model = {"source": "hub", "name": str(folder)}
    return problems(load_run({"model": model, "windows": ["L01-L01"], **changes}))


def saved(folder, family="olmoe", **changes):
    tiny_config(family, **changes).save_pretrained(folder)
    (folder / "model.safetensors").touch()  # there, and not looked into
    return folder


def test_a_model_that_has_all_that_is_read_raises_no_problem(tmp_path):
    assert problems_of(saved(tmp_path)) == []


def test_windows_beyond_the_model_are_told(tmp_path):
    (told,) = problems_of(saved(tmp_path), windows=["L01-L01", "L02-L03"])
    assert told == "windows: L02-L03 goes beyond the model, whose last layer is 2"


def test_windows_that_no_router_reads_are_told(tmp_path):
    dense = saved(tmp_path, "deepseek_v2", first_k_dense_replace=2)
    told = problems_of(dense, windows=["L00-L00"])
    assert len(told) == 2
    assert "no router of the model reads crosscoder on L00-L00; layers with experts are" in told[0]


def test_shared_experts_that_are_not_there_are_told(tmp_path):
    (told,) = problems_of(saved(tmp_path), activations={"hook_points": ["shared_out"]})
    assert "shared_out, but the model has no shared experts" in told


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"model_type": "llama"}, "model type 'llama' is no Mixture-of-Experts family"),
        ({}, "model type '' is no Mixture-of-Experts family"),
    ],
)
def test_a_family_that_nobody_reads_is_told(raw, told, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (line,) = problems_of(tmp_path)
    assert f"{tmp_path}: {told}" in line


def test_a_model_of_dense_layers_is_told(tmp_path):
    (told,) = problems_of(saved(tmp_path, "qwen3_moe", mlp_only_layers=[0, 1, 2]))
    assert told == f"model.name: {tmp_path}: all 3 layers are dense, no experts to read"


def test_a_configuration_that_is_no_json_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": ')
    (told,) = problems_of(tmp_path)
    assert str(tmp_path) in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_hidden_layers": "x"}, "config.json holds what is no model's (Validation error for"),
        ({"hidden_act": "nope"}, "config.json makes no model (KeyError: 'nope')"),
        (
            {"quantization_config": {"quant_method": "awq"}},
            "its weights are quantised (awq), and of these only mxfp4 is read; name a checkpoint",
        ),
    ],
)
def test_a_configuration_that_makes_no_model_is_one_line(change, told, tmp_path):
    file = saved(tmp_path) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    (line,) = problems_of(tmp_path)
    assert f"{tmp_path}: {told}" in line
    assert "\n" not in line


def test_gpus_that_are_there_and_that_torch_does_not_see_are_told(tmp_path, monkeypatch):
    gpus = Gpus((Gpu("0", "a"), Gpu("1", "b")))
    monkeypatch.setattr("deepseemoe.preflight.gpus_here", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices = {"activations": 2, "dictionary": "cuda"}
    (told,) = problems_of(saved(tmp_path), devices=devices)
    assert told.startswith("devices: this machine has 2 GPUs, and torch sees 1 GPU; see whether")


def test_a_machine_without_gpus_is_a_problem_where_one_is_required(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPSEEMOE_FAKE_GPUS", "0")
    devices = {"activations": 2, "require_gpu": True}
    (told,) = problems_of(saved(tmp_path), devices=devices)
    assert "DEEPSEEMOE_FAKE_GPUS is 0, and devices.require_gpu is true; run where" in told
    devices["require_gpu"] = False
    assert problems_of(tmp_path, devices=devices) == []
