"""The configuration says what is wrong, where, and what to write instead."""

import subprocess
import sys
from pathlib import Path

import pytest

from deepseemoe.config import ConfigError, load_run
from deepseemoe.config.schema import README_FILE, SCHEMA_FILE, readme_text, schema, schema_text

ROOT = Path(__file__).parents[3]

WRONG = [
    ({"windows": ["L03-L03"]}, "no router of the model reads crosscoder on L03-L03; layers with"),
    (
        {"activations": {"layers": [-1]}},
        "activations.layers: -1 is not a layer of the model, 0 to 3",
    ),
    (
        {
            "activations": {"hook_points": ["shared_out"]},
            "model": {"architecture": {"n_shared_experts": 0}},
        },
        "activations.hook_points: shared_out, but the model has no shared experts",
    ),
    (
        {
            "windows": ["L00-L02"],
            "dictionaries": {"a": {"kind": "transcoder", "d_dict": 2, "k": 1}},
        },
        "dictionaries.a: d_dict 2 leaves a layer of its window no features",
    ),
    (
        {"labels": {"base_url": "http://me:secret@host/v1"}},
        "labels.base_url: holds a user, password or query",
    ),
    (
        {"activations": {"hook_point": []}},
        "activations.hook_point: unknown key; did you mean 'hook_points'?",
    ),
    (
        {"dictionaries": {"a": {"imported": {"format": "saelens", "folder": "sae"}}}},
        "dictionaries.a: an imported SAE reads one layer, and the run has the windows L00-L01, "
        "L01-L02; write windows of one layer, as L00-L00",
    ),
    (
        {
            "windows": ["L00-L00", "L01-L01"],
            "dictionaries": {"a": {"imported": {"format": "saelens", "folder": "sae"}}},
        },
        "dictionaries.a.imported.folder: sae is one folder for 2 windows; write {layer} or",
    ),
    (
        {
            "windows": ["L00-L00"],
            "dictionaries": {
                "a": {"kind": "transcoder", "imported": {"format": "saelens", "folder": "sae"}}
            },
        },
        "dictionaries.a: imported SAEs are of kind crosscoder, on one layer; found kind transcoder",
    ),
    (
        {"dictionaries": {"a": {"imported": {"format": "sae_lens", "folder": "sae"}}}},
        "did you mean 'saelens'? (found 'sae_lens')",
    ),
    (
        {"windows": ["L03-L01"]},
        "windows.0: last layer 1 comes before first layer 3 (found 'L03-L01')",
    ),
    (
        {"windows": ["3-4"]},
        "windows.0: a window is written L08-L10 (first and last layer), not '3-4'",
    ),
    ({"windows": ["L00-L09"]}, "windows: L00-L09 goes beyond the model, whose last layer is 3"),
    ({"windows": ["L00-L00", "L00-L00"]}, "windows: L00-L00 stands twice"),
    ({"windows": []}, "windows: empty; name at least one, as L00-L01"),
    ({"dictionaries": {}}, "dictionaries: empty; name at least one"),
    ({"dictionaries": {"a": {"kk": 3}}}, "dictionaries.a.kk: unknown key; did you mean 'k'?"),
    (
        {"dictionaries": {"a": {"k": 64, "d_dict": 64}}},
        "dictionaries.a: k 64 is not less than d_dict 64",
    ),
    (
        {"dictionaries": {"a": {"skip": True}}},
        "dictionaries.a: skip true is for kind transcoder, not crosscoder",
    ),
    (
        {"dictionaries": {"a": {"reconstruct_input": True, "cross_layer": False}}},
        "dictionaries.a: reconstruct_input true is for kind transcoder, not crosscoder; "
        "cross_layer false is for kind transcoder, not crosscoder",
    ),
    (
        {"dictionaries": {"a": {"kind": "transcoder", "pre_bias": True}}},
        "dictionaries.a: pre_bias true is for kind crosscoder, not transcoder",
    ),
    *(
        (
            {"dictionaries": {"a": {"prefixes": prefixes}}},
            f"dictionaries.a: prefixes {prefixes} do not rise between 0 and 1, both left out",
        )
        for prefixes in ([0.5, 0.25], [0.5, 0.5], [0.0, 0.5], [0.5, 1.0], [-0.1])
    ),
    (
        {"dictionaries": {"a": {"d_dict": 32, "prefixes": [0.01]}}},
        "dictionaries.a: d_dict 32 leaves one of the prefixes [0.01] no features of its own on L0",
    ),
    (
        {
            "windows": ["L00-L03"],
            "dictionaries": {
                "a": {"kind": "transcoder", "d_dict": 32, "k": 9, "prefixes": [0.5, 0.55]},
            },
        },
        "dictionaries.a: d_dict 32 leaves one of the prefixes [0.5, 0.55] no features of its own "
        "on L00-L03",
    ),
    (
        {
            "windows": ["L00-L00", "L00-L02"],
            "dictionaries": {"a": {"kind": "transcoder", "activation": "topk", "k": 2}},
        },
        "dictionaries.a: k 2 is less than one for each of the 3 layers of L00-L02, which share it "
        "with activation topk",
    ),
    (
        {"dictionaries": {"a": {"n_tokens": 400, "batch_tokens": 500}}},
        "dictionaries.a: n_tokens 400 is less than one batch of batch_tokens 500; raise the one or "
        "lower the other",
    ),
    ({"dictionaries": {"a": {"activation": "topK"}}}, "did you mean 'topk'? (found 'topK')"),
    ({"corpus": {"source": "file"}}, "did you mean 'files'? (found 'file')"),
    (
        {"corpus": {"source": "files"}},
        "corpus: source `files` needs paths, as paths: [my/folder/*.jsonl.zst]",
    ),
    (
        {"corpus": {"paths": ["$NOT_SET_ANYWHERE/x"]}},
        "names an environment variable that is not set",
    ),
    (
        {"corpus": {"sequence_length": 100}},
        "corpus: shard_tokens 262144 is not a multiple of sequence_length 100",
    ),
    ({"model": {"source": "hub"}}, "model: source `hub` needs a name"),
    ({"model": {"source": "planted"}}, "model.source planted reads corpus.source planted"),
    ({"model": {"architecture": {"top_k": 9}}}, "model.architecture: top_k 9 exceeds n_experts 8"),
    (
        {"activations": {"window_tokens": 1000}},
        "window_tokens 1000 is not a multiple of chunk_tokens 256",
    ),
    (
        {"activations": {"hook_points": ["mlp_in"]}},
        "activations.hook_points.0: expected 'resid_pre'",
    ),
    ({"report": {"formats": ["png"]}}, "report: formats must hold svg"),
]


@pytest.mark.parametrize(("raw", "line"), WRONG, ids=[line[:40] for _, line in WRONG])
def test_a_wrong_key_is_told_in_one_line(raw, line):
    with pytest.raises(ConfigError) as caught:
        load_run(raw)
    assert sum(line in told for told in str(caught.value).splitlines()) == 1, str(caught.value)


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        load_run({"name": "Tiny!", "seed": -1, "dictionaries": {"a": {"k": 0}}})
    assert len(str(caught.value).splitlines()) == 4


def test_problems_across_sections_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        load_run({"windows": ["L00-L09", "L00-L08"], "dictionaries": {"a": {"k": 9, "d_dict": 9}}})
    assert len(str(caught.value).splitlines()) == 4


def test_a_resolved_configuration_reads_back_as_itself():
    run = load_run({"windows": ["L01-L02"], "dictionaries": {"sae": {"k": 3}}})
    assert load_run(run.model_dump(mode="json")) == run


def test_sites_are_what_the_dictionaries_read_and_write():
    run = load_run(
        {
            "windows": ["L01-L02"],
            "dictionaries": {"a": {"kind": "transcoder", "reads": "resid_mid"}},
            "activations": {"hook_points": ["attn_out"], "layers": [0]},
        }
    )
    expected = "attn_out/L00 moe_out/L01 resid_mid/L01 moe_out/L02 resid_mid/L02"
    assert run.sites() == tuple(expected.split())


def test_the_last_shard_may_be_short():
    run = load_run({"corpus": {"shard_tokens": 2560, "n_tokens": {"test": 2816}}})
    assert run.corpus.n_shards("test") == 2


def test_the_schema_file_matches_the_models():
    told = "run `deepseemoe schema` to renew it"
    assert (ROOT / SCHEMA_FILE).read_text() == schema_text(), (
        f"{SCHEMA_FILE} is out of step; {told}"
    )


def test_the_table_of_keys_matches_the_models():
    current = (ROOT / README_FILE).read_text()
    assert current == readme_text(current), (
        "config/README.md is out of step; run `deepseemoe schema`"
    )


def test_every_key_of_the_schema_has_a_description():
    def missing(section, path):
        for key, value in section.get("properties", {}).items():
            if "description" not in value:
                yield f"{path}{key}"
            yield from missing(value, f"{path}{key}.")

    assert list(missing(schema(), "")) == []


def test_the_configuration_imports_no_heavy_library():
    code = "import sys, deepseemoe.config, deepseemoe.report.names; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src"
    )
    assert not {"torch", "transformers", "zarr", "numpy", "pyarrow"} & set(done.stdout.split())


def test_a_secret_in_an_address_is_not_told_again():
    with pytest.raises(ConfigError) as caught:
        load_run({"labels": {"base_url": "http://me:secret@host/v1"}})
    assert "secret" not in str(caught.value)
