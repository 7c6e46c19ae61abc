"""The planted model does what its truth says, on text that it was not measured on."""

import json
from itertools import islice
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from deepseemoe.config import CorpusConfig, ModelConfig
from deepseemoe.corpus.planted import PLANTED_DOMAINS, class_of_word, documents
from deepseemoe.corpus.tokenizer import prepare_tokenizer
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.loading import load_model
from deepseemoe.model.losses import next_token_loss
from deepseemoe.model.planted import plant_model
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.names import layer_name

CONFIG = ModelConfig(source="planted")


class Planted(NamedTuple):
    model: MoeModel
    truth: dict
    directions: dict[str, np.ndarray]
    tokens: TokenBatch
    class_of_token: np.ndarray
    """The class of each token of `tokens`, flattened; empty where it is no word."""

    def rows(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.flatnonzero(self.class_of_token == name))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted") / "tokenizer"
    corpus = CorpusConfig(source="planted")
    prepare_tokenizer(corpus, model_name=None, revision=None, folder=folder, seed=0)
    return folder


@pytest.fixture(scope="module")
def planted(tokenizer) -> Planted:
    folder = tokenizer.with_name("model")
    plant_model(CONFIG, tokenizer_folder=tokenizer, folder=folder, seed=0)
    ids = json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"]
    texts = [document.text.split()[:50] for document in islice(documents(seed=3), 32)]
    texts = [text for text in texts if len(text) == 50]
    token_ids = torch.tensor([[0, *(ids[word] for word in text)] for text in texts])
    classes = [["", *map(class_of_word, text)] for text in texts]
    return Planted(
        load_model(CONFIG, folder),
        json.loads((folder / "truth.json").read_text()),
        load_file(folder / "directions.safetensors"),
        TokenBatch(token_ids, torch.arange(51).expand(len(texts), -1)),
        np.array(classes).reshape(-1),
    )


@pytest.fixture(scope="module")
def acts(planted):
    points = ("moe_in", "moe_out", "expert_ids", "expert_weights", "attn_out", "shared_out")
    sites = [f"{point}/{layer}" for layer in planted.truth["layers"] for point in points]
    with planted.model.record(sites) as acts:
        planted.model.hidden_states(planted.tokens)
    return acts


def chosen(ids_TK: torch.Tensor, n_experts: int) -> torch.Tensor:
    return torch.zeros(len(ids_TK), n_experts).scatter_(1, ids_TK, 1.0)


def test_the_truth_names_every_layer_and_class(planted):
    assert list(planted.truth["layers"]) == ["L00", "L01", "L02", "L03"]
    assert len(planted.truth["classes"]) == 18
    for layer in planted.truth["layers"].values():
        assert sorted(layer["reads"]) == sorted(planted.truth["classes"])
    for kind in ("domain", "trigger", "span"):
        for layer in planted.truth["layers"].values():
            names = [name for name in layer["reads"] if name.startswith(kind)]
            assert sorted(len(layer["reads"][name]) for name in names) == [0, 1, 1, 1, 1, 2]


def test_what_was_planted_is_what_is_measured(planted):
    for layer in planted.truth["layers"].values():
        assert layer["reads"] == layer["writes"]


def test_classes_call_their_experts_in_running_text(planted, acts):
    for layer, truth in planted.truth["layers"].items():
        is_chosen = chosen(acts[f"expert_ids/{layer}"], planted.model.n_experts)
        for name, experts in truth["reads"].items():
            share = is_chosen[planted.rows(name)].mean(0)
            assert (share[experts] == 1).all()
            expected = torch.tensor(truth["p_expert"][name])
            assert torch.allclose(share, expected, atol=0.25)  # words are drawn, not counted once


def test_taking_a_direction_out_takes_the_call_away(planted, acts):
    layer, truth = "L01", planted.truth["layers"]["L01"]
    before = chosen(acts[f"expert_ids/{layer}"], planted.model.n_experts)
    for number, name in enumerate(planted.truth["classes"]):
        direction = torch.from_numpy(planted.directions["class"][number])
        without = {f"moe_in/{layer}": lambda x, d=direction: x - (x @ d)[:, None] * d}
        with (
            planted.model.record([f"expert_ids/{layer}"], stop=True) as edited,
            planted.model.edit(without),
        ):
            planted.model.hidden_states(planted.tokens)
        after = chosen(edited[f"expert_ids/{layer}"], planted.model.n_experts)
        rows = planted.rows(name)
        fall = (before - after)[rows].mean(0)
        called = torch.zeros(planted.model.n_experts, dtype=torch.bool)
        called[truth["reads"][name]] = True
        assert (fall[called] > 0.4).all()
        assert (fall[~called] <= 0).all()
        others = torch.ones(len(before), dtype=torch.bool)
        others[rows] = False
        assert torch.equal(before[others], after[others])
        if not truth["reads"][name]:  # the null: the router does not read this class
            assert torch.equal(before, after)


def test_called_experts_write_the_direction_of_the_class(planted, acts):
    for number, layer in enumerate(planted.truth["layers"]):
        for place, name in enumerate(planted.truth["classes"]):
            rows, experts = planted.rows(name), planted.truth["layers"][layer]["writes"][name]
            direction = torch.from_numpy(planted.directions["written"][number, place])
            written = acts[f"moe_out/{layer}"][rows] @ direction
            assert (written > 0.1).all()
            shared = acts[f"shared_out/{layer}"][rows] @ direction
            assert (shared > 0.1).all() if not experts else (shared.abs() < 1e-5).all()
            for expert in experts:
                given = (
                    acts[f"{x}/{layer}"][rows] for x in ("moe_in", "expert_ids", "expert_weights")
                )
                x, ids, weights = given
                parts = planted.model.expert_outputs(number, x, ids, weights) @ direction
                assert ((parts * (ids == expert)).sum(1) > 0.05).all()


def test_load_is_spread_and_attention_is_a_faint_nuisance(planted, acts):
    for layer in planted.truth["layers"]:
        load = np.bincount(acts[f"expert_ids/{layer}"].flatten().numpy(), minlength=8)
        share = load / load.mean()
        assert 0.5 < share.min() <= share.max() < 1.6
        attention = acts[f"attn_out/{layer}"].norm(dim=-1).mean()
        assert 0 < attention < acts[f"moe_out/{layer}"].norm(dim=-1).mean()


def test_fillers_are_routed_by_word_alone(planted, acts):
    ids = acts["expert_ids/L01"][planted.rows("filler")]
    words = planted.tokens.token_ids.flatten()[planted.rows("filler")]
    for word in words.unique():
        assert (ids[words == word] == ids[words == word][0]).all()
    assert len(ids.unique()) == 8


def test_the_head_knows_something_of_the_language(planted):
    head = planted.model.network.lm_head.weight
    hidden = planted.model.hidden_states(planted.tokens)
    loss = next_token_loss(hidden, head, *planted.tokens).item()
    uniform = np.log(planted.model.network.config.vocab_size)
    assert loss < uniform - 0.8
    with planted.model.edit({"resid_post/L03": torch.zeros_like}):
        blind = next_token_loss(planted.model.hidden_states(planted.tokens), head, *planted.tokens)
    assert blind.item() == pytest.approx(uniform, abs=1e-4)


def test_directions_are_unit_vectors_and_classes_orthogonal(planted):
    for name, vectors in planted.directions.items():
        assert np.allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5), name
    gram = planted.directions["class"] @ planted.directions["class"].T
    assert np.allclose(gram, np.eye(18), atol=1e-5)
    written = planted.directions["written"].reshape(-1, 128)
    assert np.abs(written @ planted.directions["class"].T).max() < 1e-5


def test_the_same_seed_plants_the_same_bytes(planted, tokenizer, tmp_path):
    for seed in (0, 1):
        plant_model(CONFIG, tokenizer_folder=tokenizer, folder=tmp_path / str(seed), seed=seed)
    for path in tokenizer.with_name("model").iterdir():
        assert path.read_bytes() == (tmp_path / "0" / path.name).read_bytes()
    other = (tmp_path / "1" / "model.safetensors").read_bytes()
    assert other != (tmp_path / "0" / "model.safetensors").read_bytes()


def test_other_shapes_can_be_planted(tokenizer, tmp_path):
    shape = {
        "d_model": 72,
        "n_layers": 3,
        "n_experts": 6,
        "top_k": 1,
        "n_shared_experts": 0,
        "d_expert": 16,
        "n_dense_layers": 1,
    }
    config = ModelConfig(source="planted", architecture=shape)
    plant_model(config, tokenizer_folder=tokenizer, folder=tmp_path / "model", seed=0)
    truth = json.loads((tmp_path / "model" / "truth.json").read_text())
    assert list(truth["layers"]) == [layer_name(n) for n in (1, 2)]
    for layer in truth["layers"].values():
        assert layer["reads"] == layer["writes"]
        assert {len(layer["reads"][f"domain:{name}"]) for name in PLANTED_DOMAINS} == {0, 1}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"routing": "sequence"}, "a planted model routes tokens"),
        ({"n_experts": 5}, "n_experts 5 is too few to plant in; it takes 3 times top_k, 6"),
        ({"d_model": 48}, "d_model 48 is too small to plant in; at least 59"),
        ({"d_expert": 2}, "d_expert 2 is too small to plant in"),
    ],
)
def test_shapes_without_room_are_refused(tokenizer, tmp_path, shape, message):
    config = ModelConfig(source="planted", architecture=shape)
    with pytest.raises(ValueError, match=message):
        plant_model(config, tokenizer_folder=tokenizer, folder=tmp_path / "model", seed=0)
    assert not (tmp_path / "model").exists()


def test_another_tokenizer_is_refused(tmp_path):
    folder = tmp_path / "tokenizer"
    config = CorpusConfig(source="planted")
    prepare_tokenizer(config, model_name=None, revision=None, folder=folder, seed=0)
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["model"]["vocab"]["stars"] = raw["model"]["vocab"].pop("star")
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="not the planted language's tokenizer, it lacks 'star'"):
        plant_model(CONFIG, tokenizer_folder=folder, folder=tmp_path / "model", seed=0)
