"""What features lose without an expert, against runs in which the expert's output is dropped."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from mapped_moe import LENGTH, case, opened_shards

from deepseemoe.config import ExpertsConfig
from deepseemoe.experts import token_batches, writes
from deepseemoe.names import Window
from deepseemoe.runtime.tables import read_table

CONFIG = ExpertsConfig(min_tokens=4, min_documents=2, min_expected=0.5)


def mapped(monkeypatch, path, one, *, n_shards=2, batch=4 * LENGTH):
    """Call map_writes with doubles behind its paths; return the table."""
    texts, opened = opened_shards(one, n_shards)

    class Opens:
        load = staticmethod(lambda _: one.dictionary)
        open = staticmethod(opened)

    monkeypatch.setattr(writes, "Dictionary", Opens)
    monkeypatch.setattr(writes, "FeatureShard", Opens)
    monkeypatch.setattr(writes, "read_shard", texts.__getitem__)
    monkeypatch.setattr(token_batches, "BATCH_TOKENS", batch)
    writes.map_writes(
        CONFIG,
        model=one.model,
        dictionary="dictionary",
        feature_shards=range(n_shards),
        tokens=range(n_shards),
        writes=path,
        seed=0,
    )
    table = read_table(path)
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def activations(one, edits):
    """Return z of all features before the gate (T, F), and who is chosen where."""
    dictionary, layers = one.dictionary, one.dictionary.window.layers
    chosen = [f"expert_ids/L{layer:02d}" for layer in layers]
    with one.model.edit(edits), one.model.record([*dictionary.read_names, *chosen]) as acts:
        one.model.hidden_states(one.tokens)
    x_TLD = torch.stack([acts[name] for name in dictionary.read_names], 1)
    z_TF = torch.einsum("tld,fld->tf", x_TLD.double(), dictionary.encoder_FLD.double())
    return z_TF.numpy(), {n: acts[site].numpy() for n, site in zip(layers, chosen, strict=True)}


def frozen_after(one, layer):
    """Return edits that hold what later layers add to the residual stream as it was."""
    later = [n for n in one.dictionary.window.layers if n > layer]
    sites = [f"{point}/L{n:02d}" for n in later for point in ("attn_out", "moe_out")]
    if not sites:
        return {}
    with one.model.record(sites) as acts:
        one.model.hidden_states(one.tokens)
    return {site: _keeping(acts[site].clone()) for site in sites}


def _keeping(value_TD):
    return lambda _: value_TD.clone()


@pytest.mark.parametrize(
    ("kind", "window", "family"),
    [
        ("crosscoder", Window(1, 1), "nanomoe"),
        ("crosscoder", Window(0, 1), "nanomoe"),
        ("crosscoder", Window(0, 1), "flex_olmo"),
        ("transcoder", Window(0, 2), "nanomoe"),
        ("transcoder", Window(0, 1), "flex_olmo"),
    ],
)
def test_what_a_feature_loses_is_what_it_loses_where_the_expert_is_dropped(
    monkeypatch, tmp_path, kind, window, family
):
    one = case(kind, window, family=family)
    table = mapped(monkeypatch, tmp_path / "writes.parquet", one)
    is_read = ~np.isnan(table["expert_causal"])
    assert is_read.sum() > 20
    with_TF, chosen = activations(one, {})
    for layer in np.unique(table["layer"][is_read]):
        frozen = frozen_after(one, int(layer))
        for expert in range(6):
            with one.model.drop({int(layer): [expert]}):
                without_TF, _ = activations(one, frozen)
            lost_TF = with_TF - without_TF
            rows = (table["layer"] == layer) & (table["expert"] == expert) & is_read
            for row in np.flatnonzero(rows):
                feature = table["feature"][row]
                fires = one.features_TF[:, [feature]].toarray()[:, 0] > 0
                on = fires & (chosen[layer] == expert).any(1)
                assert table["n_causal"][row] == on.sum()
                lost = lost_TF[on, feature]
                np.testing.assert_allclose(table["expert_causal"][row], lost.mean(), atol=2e-4)


def test_a_transcoder_loses_only_what_it_reads_later(monkeypatch, tmp_path):
    one = case("transcoder", Window(0, 2))
    table = mapped(monkeypatch, tmp_path / "writes.parquet", one)
    source = one.dictionary.source_layer_F.numpy()[table["feature"]]
    is_later = source > table["layer"]
    np.testing.assert_array_equal(~np.isnan(table["expert_causal"]), is_later)
    np.testing.assert_array_equal(np.isnan(table["contrast"]), is_later)
    assert set(table["reason"]) <= {
        writes.NOT_WRITTEN,
        writes.NOT_READ,
        f"{writes.NOT_WRITTEN}; {writes.ONE_DOCUMENT}",
        f"{writes.NOT_READ}; {writes.ONE_DOCUMENT}",
    }


def test_a_crosscoder_writes_what_experts_add_along_its_decoder(monkeypatch, tmp_path):
    one = case("crosscoder", Window(0, 1))
    table = mapped(monkeypatch, tmp_path / "writes.parquet", one)
    assert set(table["layer"]) == {0, 1}
    assert not np.isnan(table["contrast"]).any()
    names = [f"{name}/L01" for name in ("moe_in", "expert_ids", "expert_weights")]
    with one.model.record(names) as acts:
        one.model.hidden_states(one.tokens)
    x, ids, weights = (acts[name] for name in names)
    outputs = one.model.expert_outputs(1, x, ids, weights).double().numpy()
    is_valid = one.text.positions_SN.ravel() > 0
    for row in np.flatnonzero(table["layer"] == 1)[::7]:
        feature, expert = table["feature"][row], table["expert"][row]
        direction = one.dictionary.decoder_FLD[feature, 1].double().numpy()
        projection = outputs @ direction / np.linalg.norm(direction)
        fires = one.features_TF[:, [feature]].toarray() > 0
        is_chosen = (ids.numpy() == expert) & is_valid[:, None]
        np.testing.assert_allclose(
            table["mean_on"][row], projection[is_chosen & fires].mean(), atol=1e-4
        )
        np.testing.assert_allclose(
            table["mean_off"][row], projection[is_chosen & ~fires].mean(), atol=1e-4
        )


def test_a_crosscoder_below_all_experts_has_an_empty_map(monkeypatch, tmp_path):
    one = case("crosscoder", Window(0, 0), n_dense_layers=1)
    table = mapped(monkeypatch, tmp_path / "writes.parquet", one)
    assert table["layer"].size == 0
    with pytest.raises(ValueError, match="no layer of L00-L00 has experts"):
        writes.writing_layers(replace(one.dictionary, kind="transcoder"), one.model.moe_layers)
