"""The stage that measures effects, on a small random model: against plain runs with edits."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from mapped_moe import LENGTH, N_FEATURES, case, opened_shards
from planted_shards import PlantedFeatures
from safetensors.numpy import load_file

from deepseemoe.config import CorpusConfig, ExpertsConfig, ModelConfig
from deepseemoe.corpus.tokenizer import prepare_tokenizer
from deepseemoe.dictionary.codes import Codes
from deepseemoe.experts import effects, token_batches
from deepseemoe.experts.effects_local import local_effects
from deepseemoe.experts.schemas import EFFECTS
from deepseemoe.experts.weights import written_before
from deepseemoe.model.loading import load_model
from deepseemoe.model.planted import plant_model
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.names import Window
from deepseemoe.runtime.tables import read_table

CONFIG = {"min_tokens": 4, "min_documents": 2, "effect_tokens": 10_000, "full_features": 5,
          "full_sequences": 10_000}  # fmt: skip


def measured(monkeypatch, path, one, *, n_shards=2, batch=96, **config):
    """Call measure_effects with doubles behind its paths; return the table."""
    texts, opened = opened_shards(one, n_shards)

    class Opens:
        load = staticmethod(lambda _: one.dictionary)
        open = staticmethod(opened)

    monkeypatch.setattr(effects, "Dictionary", Opens)
    monkeypatch.setattr(effects, "FeatureShard", Opens)
    monkeypatch.setattr(effects, "read_shard", texts.__getitem__)
    monkeypatch.setattr(token_batches, "BATCH_TOKENS", batch)
    effects.measure_effects(
        ExpertsConfig(**{**CONFIG, **config}),
        model=one.model,
        dictionary="dictionary",
        feature_shards=range(n_shards),
        tokens=range(n_shards),
        effects=path,
        seed=0,
    )
    table = read_table(path)
    assert table.column_names == [column.name for column in EFFECTS]
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def at(table, layer, feature):
    """Return the rows of a feature at a layer, all experts in order."""
    rows = np.flatnonzero((table["layer"] == layer) & (table["feature"] == feature))
    assert table["expert"][rows].tolist() == list(range(6))
    return rows


def margins(logits_TE, top_k=2):
    scores = logits_TE.double().softmax(1).numpy()
    others = [np.sort(np.delete(scores, e, 1), 1)[:, -top_k] for e in range(scores.shape[1])]
    return scores - np.stack(others, 1)


def is_told_why(table):
    """Whether every number is finite, or missing with a reason."""
    floats = np.stack([values for values in table.values() if values.dtype.kind == "f"])
    return not np.isinf(floats).any() and (np.isnan(floats).any(0) <= (table["reason"] != "")).all()


@pytest.fixture(scope="module", params=["crosscoder", "transcoder"])
def kind_and_table(request, tmp_path_factory):
    one = case(request.param)
    with pytest.MonkeyPatch.context() as patch:
        return one, measured(patch, tmp_path_factory.mktemp("t") / "effects.parquet", one)


def test_local_effects_are_those_of_a_run_with_resid_mid_edited(kind_and_table):
    one, table = kind_and_table
    n_compared = 0
    for layer in np.unique(table["layer"]).tolist():
        directions = torch.from_numpy(written_before(one.dictionary, layer)).float()
        with_, logits = one.decided(layer)
        for feature in np.unique(table["feature"]):
            rows = torch.from_numpy(one.features_TF[:, [feature]].nonzero()[0])
            if not directions[feature].any():
                continue
            edit = one.subtracting(rows, feature, directions[feature])
            without, logits_without = one.decided(layer, {f"resid_mid/L{layer:02d}": edit})
            mine, expected = at(table, layer, feature), (with_ - without)[rows].mean(0).numpy()
            np.testing.assert_allclose(table["causal_dp"][mine], expected, atol=1e-6)
            changed = (margins(logits) - margins(logits_without))[rows].mean(0)
            np.testing.assert_allclose(table["causal_dm"][mine], changed, atol=1e-5)
            assert (table["n_causal"][mine] == len(rows)).all()
            n_compared += 1
    assert n_compared >= 5
    assert np.nanmax(np.abs(table["causal_dp"])) > 0.03


def test_full_effects_are_those_of_a_run_in_which_attention_sees_the_feature_gone(kind_and_table):
    one, table = kind_and_table
    taken = np.unique(table["feature"][table["n_full"] > 0])
    assert 1 <= taken.size <= 5
    differs = []
    for layer in np.unique(table["layer"][table["n_full"] > 0]).tolist():
        directions = torch.from_numpy(written_before(one.dictionary, layer)).float()
        with_, logits = one.decided(layer)
        for feature in taken:
            rows = torch.from_numpy(one.features_TF[:, [feature]].nonzero()[0])
            edit = one.subtracting(rows, feature, directions[feature])
            without, logits_without = one.decided(layer, {f"resid_pre/L{layer:02d}": edit})
            mine = at(table, layer, feature)
            expected = (with_ - without)[rows].mean(0).numpy()
            np.testing.assert_allclose(table["full_dp"][mine], expected, atol=1e-6)
            changed = (margins(logits) - margins(logits_without))[rows].mean(0)
            np.testing.assert_allclose(table["full_dm"][mine], changed, atol=1e-5)
            differs.append(np.abs(table["full_dm"][mine] - table["causal_dm"][mine]).max())
    assert max(differs) > 1e-3


def test_the_features_with_the_largest_local_effects_are_taken_out_of_the_model(kind_and_table):
    _, table = kind_and_table
    least = np.nan_to_num(np.maximum(table["causal_dp_lo"], -table["causal_dp_hi"]))
    of_feature = {f: least[table["feature"] == f].max() for f in np.unique(table["feature"])}
    taken = set(table["feature"][table["n_full"] > 0])
    rest = [value for feature, value in of_feature.items() if feature not in taken]
    assert min(of_feature[feature] for feature in taken) >= max(rest, default=0)


def test_every_missing_number_has_a_reason(kind_and_table):
    one, table = kind_and_table
    assert is_told_why(table)
    if one.dictionary.kind == "transcoder":
        source = one.dictionary.source_layer_F.numpy()[table["feature"]]
        is_unread = table["reason"] == "writes nothing before this router"
        np.testing.assert_array_equal(is_unread, source >= table["layer"])
        assert np.isnan(table["causal_dp"][is_unread]).all()
        assert (table["n_causal"][is_unread] == 0).all()


def test_every_supported_feature_has_all_experts_and_no_other_feature_has_any(kind_and_table):
    one, table = kind_and_table
    n_layers = np.unique(table["layer"]).size
    shard = PlantedFeatures(
        one.features_TF, one.text.doc_ids_SN.ravel(), one.text.positions_SN.ravel() > 0,
        one.text.token_ids_SN.ravel(), one.text.positions_SN.ravel(),
    )  # fmt: skip
    columns = one.features_TF.tocsc()
    spread = [
        np.unique(shard.doc_ids[columns.indices[slice(*columns.indptr[f : f + 2])]]).size
        for f in range(N_FEATURES)
    ]
    is_wide = (np.array(spread) >= 2) & (np.diff(columns.indptr) >= 4)
    features, counts = np.unique(table["feature"], return_counts=True)
    assert features.tolist() == np.flatnonzero(is_wide).tolist()
    assert (counts == n_layers * 6).all()
    order = np.lexsort((table["expert"], table["feature"], table["layer"]))
    assert (order == np.arange(order.size)).all()


def test_shards_batches_and_passes_change_nothing(monkeypatch, tmp_path, kind_and_table):
    one, table = kind_and_table
    monkeypatch.setattr(effects, "SUMS_BYTES", 1)
    again = measured(monkeypatch, tmp_path / "e.parquet", one, n_shards=5, batch=3 * LENGTH)
    for name, values in table.items():
        if name == "w_map":  # its scale is measured on the first tokens of the first shard
            np.testing.assert_allclose(again[name], values, rtol=0.1)
        elif values.dtype.kind == "f":
            np.testing.assert_allclose(again[name], values, atol=2e-6)
        else:
            assert (again[name] == values).all()


def test_nothing_but_the_table_is_left_after_a_job_that_had_been_killed(monkeypatch, tmp_path):
    (tmp_path / "effects.parquet.local").mkdir()
    (tmp_path / "effects.parquet.local" / "1.npz").write_bytes(b"half")
    (tmp_path / "effects.parquet.partial").write_bytes(b"half")
    measured(monkeypatch, tmp_path / "effects.parquet", case(), full_features=1)
    assert [path.name for path in tmp_path.iterdir()] == ["effects.parquet"]


def test_a_bound_on_tokens_and_sequences_is_kept(monkeypatch, tmp_path):
    limits = {"effect_tokens": 6, "full_features": 2, "full_sequences": 3}
    table = measured(monkeypatch, tmp_path / "e.parquet", case(), **limits)
    assert 5 <= table["n_causal"].max() <= 6
    assert np.unique(table["feature"][table["n_full"] > 0]).size <= 2
    assert table["n_full"].max() <= 3 * LENGTH
    assert is_told_why(table)
    none = measured(monkeypatch, tmp_path / "n.parquet", case(), full_features=0)
    assert (none["n_full"] == 0).all()
    assert is_told_why(none)


def test_a_crosscoder_taken_out_of_its_window_is_gone_at_every_layer(monkeypatch, tmp_path):
    one = case()
    table = measured(monkeypatch, tmp_path / "e.parquet", one, full_layers="window")
    feature = np.unique(table["feature"][table["n_full"] > 0])[0]
    rows = torch.from_numpy(one.features_TF[:, [feature]].nonzero()[0])
    first_D, second_D = one.dictionary.decoder_FLD[feature]
    edits = {
        "resid_post/L00": one.subtracting(rows, feature, first_D),
        "resid_post/L01": one.subtracting(rows, feature, second_D - first_D),  # the rest is carried
    }
    for layer in (1, 2):
        with_, without = one.decided(layer)[0], one.decided(layer, edits)[0]
        expected = (with_ - without)[rows].mean(0).numpy()
        np.testing.assert_allclose(table["full_dp"][at(table, layer, feature)], expected, atol=1e-6)


def test_a_transcoder_taken_out_of_its_window_loses_what_it_adds_at_every_layer(
    monkeypatch, tmp_path
):
    one = case("transcoder", Window(0, 2))
    table = measured(monkeypatch, tmp_path / "e.parquet", one, full_layers="window")
    for feature in np.unique(table["feature"][table["n_full"] > 0]):
        rows = torch.from_numpy(one.features_TF[:, [feature]].nonzero()[0])
        written = one.dictionary.decoder_FLD[feature]
        edits = {
            f"moe_out/L{layer:02d}": one.subtracting(rows, feature, written[layer])
            for layer in range(3)
        }
        with_, without = one.decided(2)[0], one.decided(2, edits)[0]
        mine, expected = at(table, 2, feature), (with_ - without)[rows].mean(0).numpy()
        np.testing.assert_allclose(table["full_dp"][mine], expected, atol=1e-6)


def test_routers_that_read_several_tokens_have_full_effects_only(monkeypatch, tmp_path):
    table = measured(monkeypatch, tmp_path / "e.parquet", case(routing="prefix"))
    assert np.isnan(table["causal_dp"]).all()
    assert not np.isnan(table["full_dp"][table["n_full"] > 0]).any()
    assert (table["n_full"] > 0).any()
    assert is_told_why(table)


def test_directions_times_activations_are_in_units_of_the_residual_stream():
    one = case()
    codes = one.dictionary.encode(torch.randn(1, 2, 32) * 3)
    none = Codes(np.array([0, 0]), codes.features[:0], codes.values[:0])
    added = one.dictionary.decode(codes) - one.dictionary.decode(none)
    for layer in (1, 2):
        directions = written_before(one.dictionary, layer)[codes.features]
        np.testing.assert_allclose(added[0, layer - 1], codes.values @ directions, atol=1e-4)


def test_a_planted_model_loses_the_experts_that_its_truth_says(tmp_path):
    """A word's class is a direction; `truth.json` has the choice with it and without."""
    config = ModelConfig(source="planted")
    prepare_tokenizer(
        CorpusConfig(source="planted"), model_name=None, revision=None, folder=tmp_path / "t",
        seed=0,
    )  # fmt: skip
    plant_model(config, tokenizer_folder=tmp_path / "t", folder=tmp_path / "m", seed=0)
    model = load_model(config, tmp_path / "m")
    truth = json.loads((tmp_path / "m" / "truth.json").read_text())
    class_CD = torch.from_numpy(load_file(tmp_path / "m" / "directions.safetensors")["class"])
    n_words = model.vocab_size
    words = TokenBatch(torch.arange(n_words)[:, None], torch.zeros(n_words, 1, dtype=torch.int64))
    for name, expected in truth["layers"].items():
        layer = int(name[1:])
        with model.record([f"resid_mid/{name}"]) as acts:
            model.hidden_states(words)
        residual_VD = acts[f"resid_mid/{name}"]
        z_VC = residual_VD @ class_CD.T
        z_VC[z_VC < 0.3] = 0  # words of the class hold it about once, others not at all
        found = local_effects(
            residual_VD,
            features_TF=sp.csr_array(z_VC.numpy()),
            document_T=np.arange(n_words),
            directions_FD=class_CD,
            route=lambda x_TD, layer=layer: model.route(layer, model.router_input(layer, x_TD)),
            n_tokens=n_words,
        )
        p, without = (
            np.array([expected[key][c] for c in truth["classes"]])
            for key in ("p_expert", "p_expert_without")
        )
        np.testing.assert_allclose(found.dp, p - without, atol=1e-5)
        is_read = np.zeros_like(p, dtype=bool)
        for number, one in enumerate(truth["classes"]):
            is_read[number, expected["reads"][one]] = True
        assert (found.dp[is_read] >= 0.5).all()
        assert found.dp[~is_read].max() < 0.5
