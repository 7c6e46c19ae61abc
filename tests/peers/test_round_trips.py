"""What is exported does in each peer's own loader what the dictionary does; what peers write, here.

Skipped, with the reason, where a peer is not installed. circuit-tracer needs transformers 4, so
only its loaders are taken, by path: CIRCUIT_TRACER names the folder of its package (unpack the
wheel of circuit-tracer 0.5.0); without, a copy of its documented formulas stands in elsewhere
(tests/unit/interop).
"""

import importlib.util
import json
import os
import sys
import types
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "interop"))

from made_dictionaries import D_DICT, D_MODEL, FIRST, KINDS, K, close, dense, made, output, raw

from deepseemoe.interop.exporting import export_dictionary
from deepseemoe.interop.importing import read_dictionary
from deepseemoe.names import Window

# Warnings of the peers' code are not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")

LAYER = Window(FIRST, FIRST)
DEPTH = 7
THRESHOLDS = ("batch_topk", "jumprelu", "relu")
TOPK = ("topk", "topk_unweighted")
SAES = ("sae", "crosscoder")
TRANSCODERS = tuple(kind for kind, (name, *_) in KINDS.items() if name == "transcoder")


def installed(name):
    """Return a peer's package; skip where it is not installed.

    dictionary_learning asks for nnsight, for a buffer that is not used here; any will do.
    """
    if "nnsight" not in sys.modules and importlib.util.find_spec("nnsight") is None:
        sys.modules["nnsight"] = types.ModuleType("nnsight")
        sys.modules["nnsight"].LanguageModel = object
    return pytest.importorskip(name, reason=f"{name} is not installed; run `make peers`")


def exported(dictionary, to, folder, **options):
    dictionary.save(folder / "ours")
    return export_dictionary(folder / "ours", format=to, folder=folder / "theirs", **options)


def columns(x_TLD):
    return x_TLD.flatten(1)


@pytest.mark.parametrize("gate", THRESHOLDS + TOPK)
@pytest.mark.parametrize("kind", SAES)
@torch.no_grad()
def test_sae_lens_does_the_same_with_saes(kind, gate, tmp_path):
    lens = installed("sae_lens")
    dictionary = made(kind, gate)
    sae = lens.SAE.load_from_disk(exported(dictionary, "saelens", tmp_path, model="my/moe"))
    assert sae.cfg.architecture() == ("topk" if gate in TOPK else "jumprelu")
    assert sae.cfg.metadata.model_name == "my/moe"
    assert sae.cfg.metadata.hook_name == f"blocks.{FIRST}.hook_resid_post"
    assert len(sae.cfg.metadata.hook_names) == dictionary.n_layers
    x = raw(dictionary)
    features = sae.encode(columns(x))
    close(sae.decode(features), columns(output(dictionary, x)))
    if gate not in TOPK:
        close(features, dense(dictionary, x))
    else:
        assert torch.equal(features > 0, dense(dictionary, x) > 0)


@pytest.mark.parametrize("gate", THRESHOLDS)
@pytest.mark.parametrize("kind", TRANSCODERS)
@torch.no_grad()
def test_sae_lens_transcoders_of_all_source_layers_add_up(kind, gate, tmp_path):
    lens = installed("sae_lens")
    dictionary = made(kind, gate)
    folder, x = exported(dictionary, "saelens", tmp_path), raw(dictionary)
    found = torch.zeros(len(x), dictionary.n_slots, D_MODEL)
    activations = []
    for place, part in enumerate(dictionary.parts):
        home = folder if len(dictionary.parts) == 1 else folder / f"layer_{FIRST + place}"
        transcoder = lens.SAE.load_from_disk(home)
        written = transcoder(x[:, place]).view(len(x), -1, D_MODEL)
        found[:, part.writes.start : part.writes.stop] += written
        activations.append(transcoder.encode(x[:, place]))
        assert len(transcoder.cfg.metadata.hook_names_out) == len(part.writes)
    close(torch.cat(activations, 1), dense(dictionary, x))
    close(found, output(dictionary, x))


@pytest.mark.parametrize("gate", TOPK)
@pytest.mark.parametrize("kind", ["sae", "crosscoder", "transcoder", "skip", "skip_per_layer"])
@torch.no_grad()
def test_sparsify_does_the_same_with_topk(kind, gate, tmp_path):
    sparsify = installed("sparsify")
    dictionary = made(kind, gate)
    folder, x = exported(dictionary, "sparsify", tmp_path), raw(dictionary)
    coders = sparsify.SparseCoder.load_many(str(folder), local=True)
    if kind in SAES:
        (coder,) = coders.values()
        found = coder(columns(x)).sae_out
    else:
        names = [f"layers.{FIRST + place}.mlp" for place in range(dictionary.n_layers)]
        assert list(coders) == names
        found = torch.cat([coders[name](x[:, i]).sae_out for i, name in enumerate(names)], 1)
    close(found, columns(output(dictionary, x)))


@torch.no_grad()
def test_sparsify_keeps_k_features_of_each_token_of_a_batch_topk_dictionary(tmp_path):
    sparsify = installed("sparsify")
    dictionary = made("sae")
    folder, x = exported(dictionary, "sparsify", tmp_path), raw(dictionary)
    coder = sparsify.SparseCoder.load_from_disk(folder / f"layers.{FIRST}")
    chosen = coder.encode(columns(x)).top_indices
    assert chosen.shape == (len(x), K)
    assert "APPROXIMATE" in (folder / "README.md").read_text()


@pytest.mark.parametrize("gate", THRESHOLDS + TOPK)
@pytest.mark.parametrize("kind", ["sae", "crosscoder", "transcoder", "per_layer"])
@torch.no_grad()
def test_dictionary_learning_does_the_same(kind, gate, tmp_path):
    installed("dictionary_learning")
    from dictionary_learning.utils import load_dictionary

    dictionary = made(kind, gate)
    folder, x = exported(dictionary, "dictionary_learning", tmp_path), raw(dictionary)
    if kind == "per_layer":
        found = [
            load_dictionary(str(folder / f"layer_{FIRST + i}"), "cpu")[0](x[:, i])
            for i in range(dictionary.n_layers)
        ]
    else:
        found = [load_dictionary(str(folder), "cpu")[0](columns(x))]
    close(torch.cat(found, 1), columns(output(dictionary, x)))


@pytest.fixture
def circuit_tracer():
    """Return the two loader modules of circuit-tracer, taken by path from its package."""
    folder = os.environ.get("CIRCUIT_TRACER")
    if not folder:
        pytest.skip("circuit-tracer wants transformers 4: set CIRCUIT_TRACER to its package folder")
    names = ("circuit_tracer", "circuit_tracer.utils", "circuit_tracer.transcoder")
    made_here = {name: types.ModuleType(name) for name in names}
    made_here["circuit_tracer.utils"].get_default_device = lambda: torch.device("cpu")
    sys.modules.update(made_here)
    try:
        loaded = [
            _module(f"circuit_tracer.transcoder.{name}", Path(folder) / "transcoder" / f"{name}.py")
            for name in (
                "activation_functions",
                "single_layer_transcoder",
                "cross_layer_transcoder",
            )
        ]
        yield loaded[1:]
    finally:
        for name in [name for name in sys.modules if name.startswith("circuit_tracer")]:
            del sys.modules[name]


def _module(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("gate", THRESHOLDS)
@torch.no_grad()
def test_circuit_tracer_does_the_same_with_a_clt(gate, lazy, circuit_tracer, tmp_path):
    import yaml

    dictionary = made("clt", gate)
    folder = exported(dictionary, "circuit_tracer", tmp_path, n_layers=DEPTH)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    clt = circuit_tracer[1].load_clt(
        str(folder),
        config["feature_input_hook"],
        config["feature_output_hook"],
        dtype=torch.float32,
        lazy_decoder=lazy,
        lazy_encoder=lazy,
    )
    assert (clt.n_layers, config["model_kind"]) == (DEPTH, "cross_layer_transcoder")
    _agrees_inside_and_is_zero_outside(clt, dictionary)


@pytest.mark.parametrize("gate", THRESHOLDS)
@pytest.mark.parametrize("kind", ["transcoder", "per_layer", "skip", "skip_per_layer"])
@torch.no_grad()
def test_circuit_tracer_does_the_same_with_a_set(kind, gate, circuit_tracer, tmp_path, monkeypatch):
    import yaml

    dictionary = made(kind, gate, reads="resid_mid")
    folder = exported(dictionary, "circuit_tracer", tmp_path, n_layers=DEPTH)
    monkeypatch.chdir(folder)
    config = yaml.safe_load(Path("config.yaml").read_text())
    found = circuit_tracer[0].load_transcoder_set(
        dict(enumerate(config["transcoders"])),
        scan=config["scan"],
        feature_input_hook=config["feature_input_hook"],
        feature_output_hook=config["feature_output_hook"],
    )
    assert (len(found), found.feature_input_hook) == (DEPTH, "hook_resid_mid")
    _agrees_inside_and_is_zero_outside(found, dictionary)


def _agrees_inside_and_is_zero_outside(theirs, dictionary):
    x = raw(dictionary)
    inputs = torch.randn(DEPTH, len(x), D_MODEL)
    window = slice(FIRST, FIRST + dictionary.n_layers)
    inputs[window] = x.transpose(0, 1)
    parts = theirs.compute_attribution_components(inputs, zero_positions=slice(0, 0))
    found = parts["reconstruction"].transpose(0, 1)
    close(found[:, window], output(dictionary, x))
    outside = [layer for layer in range(DEPTH) if not window.start <= layer < window.stop]
    assert not found[:, outside].any()
    layers, _, _ = parts["activation_matrix"].indices()
    assert set(layers.tolist()) == set(range(window.start, window.stop))


# What peers write, imported


def agrees(theirs, ours, x_TD):
    """Assert that a peer's SAE and its import do the same."""
    features = theirs.encode(x_TD)
    close(dense(ours, x_TD[:, None]), features.detach())
    close(output(ours, x_TD[:, None])[:, 0], theirs.decode(features).detach())
    assert features.any()


@pytest.mark.parametrize(
    ("architecture", "extra"),
    [
        ("standard", {}),
        ("jumprelu", {}),
        ("gated", {}),
        ("topk", {"k": K}),
        ("topk", {"k": K, "rescale_acts_by_decoder_norm": True}),
    ],
)
@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
@torch.no_grad()
def test_what_sae_lens_saves_is_imported(architecture, extra, apply_b_dec_to_input, tmp_path):
    lens = installed("sae_lens")
    config = {
        "architecture": architecture,
        "d_in": D_MODEL,
        "d_sae": D_DICT,
        "apply_b_dec_to_input": apply_b_dec_to_input,
        "metadata": {"hook_name": f"blocks.{FIRST}.hook_resid_post", "sae_lens_version": "6.54.12"},
        **extra,
    }
    sae = lens.SAE.from_dict(config)
    _fill(sae)
    sae.save_model(tmp_path)
    ours = read_dictionary(tmp_path, format="saelens", window=LAYER)
    x = torch.randn(200, D_MODEL)
    if extra.get("rescale_acts_by_decoder_norm"):
        close(output(ours, x[:, None])[:, 0], sae(x))
    agrees(sae, ours, x)


@pytest.mark.parametrize("rescale", [True, False])
@torch.no_grad()
def test_a_training_checkpoint_of_sae_lens_is_what_it_saves_for_inference(rescale, tmp_path):
    installed("sae_lens")
    from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    config = BatchTopKTrainingSAEConfig(
        d_in=D_MODEL, d_sae=D_DICT, k=K, rescale_acts_by_decoder_norm=rescale
    )
    training = BatchTopKTrainingSAE(config)
    _fill(training)
    training.topk_threshold.fill_(0.7)
    training.cfg.metadata.hook_name = f"blocks.{FIRST}.hook_resid_post"
    training.save_model(tmp_path / "training")
    training.save_inference_model(tmp_path / "inference")
    sae = SAE.load_from_disk(tmp_path / "inference")
    for name in ("training", "inference"):
        ours = read_dictionary(tmp_path / name, format="saelens", window=LAYER)
        agrees(sae, ours, torch.randn(200, D_MODEL))


@torch.no_grad()
def _fill(module, seed=0):
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.6)
        if "threshold" in name:
            parameter.abs_()


@pytest.mark.parametrize(
    "name",
    [
        "AutoEncoder",
        "AutoEncoderNew",
        "GatedAutoEncoder",
        "JumpReluAutoEncoder",
        "AutoEncoderTopK",
        "BatchTopKSAE",
        "MatryoshkaBatchTopKSAE",
    ],
)
@pytest.mark.parametrize("threshold", [0.4, -1.0])
@torch.no_grad()
def test_what_dictionary_learning_saves_is_imported(name, threshold, tmp_path):
    installed("dictionary_learning")
    from dictionary_learning import dictionary as classes
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k

    homes = [classes, batch_top_k, matryoshka_batch_top_k, top_k]
    chosen = next(getattr(home, name) for home in homes if hasattr(home, name))
    options = {"k": K} if "TopK" in name else {}
    if name.startswith("Matryoshka"):
        options["group_sizes"] = [20, D_DICT - 20]
    sae = chosen(D_MODEL, D_DICT, **options)
    _fill(sae)
    if "TopK" in name:
        sae.threshold.fill_(threshold)
    torch.save(sae.state_dict(), tmp_path / "ae.pt")
    trainer = {"dict_class": name, "activation_dim": D_MODEL, "dict_size": D_DICT, "layer": FIRST}
    config = {"trainer": trainer | ({"k": K} if options else {}), "buffer": {"ctx_len": 128}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = read_dictionary(tmp_path, format="dictionary_learning", window=LAYER)
    agrees(sae, ours, torch.randn(200, D_MODEL))
