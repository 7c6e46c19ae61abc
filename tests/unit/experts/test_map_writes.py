import numpy as np
import pytest
import scipy.sparse as sp
import torch
from planted_model import PlantedDictionary, PlantedMoe
from planted_shards import PlantedFeatures
from scipy import stats

from deepseemoe.config import ExpertsConfig
from deepseemoe.corpus.shards import TokenShard
from deepseemoe.experts import token_batches, writes
from deepseemoe.experts.contributions import LayerContributions, contrast
from deepseemoe.experts.schemas import WRITES
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.names import Window
from deepseemoe.runtime.tables import read_table

LENGTH, N_SEQUENCES = 32, 240
CONFIG = ExpertsConfig()


@pytest.fixture(scope="module")
def model():
    return PlantedMoe(0, layers=(1, 2))


@pytest.fixture(scope="module")
def text():
    """Packed sequences of documents of 10 to 60 tokens that go on over their ends."""
    rng = np.random.default_rng(0)
    n_tokens = LENGTH * N_SEQUENCES
    document_T = np.repeat(np.arange(n_tokens), rng.integers(10, 60, n_tokens))[:n_tokens]
    place_T = np.arange(n_tokens)
    opens = (place_T % LENGTH == 0) | (np.diff(document_T, prepend=-1) != 0)
    positions_T = place_T - np.maximum.accumulate(np.where(opens, place_T, 0))
    shape = N_SEQUENCES, LENGTH
    arrays = rng.integers(120, size=n_tokens), document_T, positions_T
    return TokenShard(*(a.astype(np.uint32).reshape(shape) for a in arrays))


def features_of(model, text):
    """Return the feature shard of a text: the features of each token type, none at position 0."""
    tokens, documents, positions = (array.ravel() for array in text)
    is_valid = positions > 0
    active = model.has_feature_VF[tokens] & is_valid[:, None]
    strength = np.random.default_rng(1).uniform(1, 2, active.shape)
    return PlantedFeatures(
        sp.csr_array((active * strength).astype(np.float32)), documents, is_valid, tokens, positions
    )


def cut(text, n_shards):
    edges = np.linspace(0, N_SEQUENCES, n_shards + 1).astype(int)
    parts = [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return [TokenShard(*(array[part] for array in text)) for part in parts]


def written(monkeypatch, path, model, text, *, n_shards=2, kind="transcoder", batch=2048):
    """Call map_writes with doubles behind its paths; return the table."""
    parts = cut(text, n_shards)
    decoder_FLD = torch.from_numpy(model.writes_FD).float()[:, None].repeat(1, 2, 1) * 3
    decoder_FLD[20:, 0] = 0  # the last features read layer 2
    encoder_FLD = torch.from_numpy(model.writes_FD).float()[:, None].repeat(1, 2, 1)
    encoder_FLD[20:, 0] = 0
    encoder_FLD[:20, 1] = 0

    class Opens:
        load = staticmethod(
            lambda _: PlantedDictionary(kind, Window(1, 2), decoder_FLD, encoder_FLD)
        )
        open = staticmethod(lambda place: features_of(model, parts[place]))

    monkeypatch.setattr(writes, "Dictionary", Opens)
    monkeypatch.setattr(writes, "FeatureShard", Opens)
    monkeypatch.setattr(writes, "read_shard", parts.__getitem__)
    monkeypatch.setattr(token_batches, "BATCH_TOKENS", batch)
    writes.map_writes(
        CONFIG,
        model=model,
        dictionary="dictionary",
        feature_shards=range(n_shards),
        tokens=range(n_shards),
        writes=path,
        seed=0,
    )
    return {name: column.to_numpy(zero_copy_only=False) for name, column in zip(
        read_table(path).schema.names, read_table(path).columns, strict=True)}  # fmt: skip


@pytest.fixture(scope="module")
def table(model, text, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return written(patch, tmp_path_factory.mktemp("map") / "writes.parquet", model, text)


def test_the_map_finds_the_planted_writer(model, table):
    assert list(table) == [column.name for column in WRITES]
    is_written = ~np.isnan(table["contrast"])
    table = {name: values[is_written] for name, values in table.items()}
    is_writer = model.writer_F[table["feature"]] == table["expert"]
    assert is_writer.sum() > 25
    assert (table["contrast_lo"][is_writer] > 0).mean() > 0.9
    assert table["contrast"][is_writer].mean() > 10 * abs(table["contrast"][~is_writer].mean())
    place, first = table["layer"].astype(int) * 100 + table["feature"], []
    for one in np.unique(place[is_writer]):
        mine = np.flatnonzero(place == one)
        best = [mine[np.argmax(table[name][mine])] for name in ("contrast", "contrast_lo")]
        first.append(is_writer[best])
    assert (np.mean(first, axis=0) > 0.9).all()


def test_features_write_from_the_layer_they_read(table):
    is_written = ~np.isnan(table["contrast"])
    assert table["feature"][is_written & (table["layer"] == 1)].max() < 20
    assert table["feature"][table["layer"] == 2].max() >= 20


def test_means_equal_projections_made_token_by_token(model, text, table):
    shard = features_of(model, text)
    active = shard.features_TF.toarray() > 0
    with model.record(["moe_in/L01", "expert_ids/L01", "expert_weights/L01"]) as acts:
        model.hidden_states(TokenBatch.from_arrays(text.token_ids_SN, text.positions_SN))
    x, ids, weights = acts.values()
    outputs = model.expert_outputs(1, x, ids, weights).double().numpy()
    for row in np.flatnonzero((table["layer"] == 1) & ~np.isnan(table["contrast"]))[::9]:
        feature, expert = table["feature"][row], table["expert"][row]
        is_chosen = (ids.numpy() == expert) & shard.is_valid[:, None]
        projection = outputs @ model.writes_FD[feature]
        on, off = (is_chosen & at[:, None] for at in (active[:, feature], ~active[:, feature]))
        assert table["n_both"][row] == on.sum()
        np.testing.assert_allclose(table["mean_on"][row], projection[on].mean(), atol=1e-5)
        np.testing.assert_allclose(table["mean_off"][row], projection[off].mean(), atol=1e-5)
        parts = np.bincount(ids.numpy()[active[:, feature]].ravel(),
                            projection[active[:, feature]].ravel(), 6)  # fmt: skip
        share = parts[expert] / np.abs(parts).sum()
        np.testing.assert_allclose(table["share"][row], share, rtol=1e-3, atol=1e-6)


def test_shards_and_batches_change_nothing_but_rounding(monkeypatch, tmp_path, model, text, table):
    again = written(monkeypatch, tmp_path / "w.parquet", model, text, n_shards=5, batch=3 * LENGTH)
    assert set(zip(again["layer"], again["expert"], again["feature"], strict=True)) == set(
        zip(table["layer"], table["expert"], table["feature"], strict=True)
    )
    order, other = (np.lexsort((t["feature"], t["expert"], t["layer"])) for t in (table, again))
    for name in ("n_both", "mean_on", "contrast", "contrast_lo", "contrast_hi", "share"):
        np.testing.assert_allclose(table[name][order], again[name][other], rtol=2e-3, atol=1e-4)


def contributions(rng, *, n_documents=30, n_features=5, n_experts=4, width=8):
    """Return random tokens of documents, as `LayerContributions.add` takes them."""
    document_T = np.repeat(np.arange(n_documents), rng.integers(3, 25, n_documents))
    active = rng.random((document_T.size, n_features)) < 0.3
    outputs_TKD = rng.normal(size=(document_T.size, 2, width)) + rng.normal(size=width)
    experts_TK = np.argsort(rng.random((document_T.size, n_experts)), axis=1)[:, :2]
    directions = rng.normal(size=(n_features, width))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return document_T, active, outputs_TKD, experts_TK, directions


def test_the_interval_is_that_of_influences_summed_over_documents():
    rng = np.random.default_rng(0)
    document_T, active, outputs_TKD, experts_TK, directions = contributions(rng)
    changes_TFK = rng.normal(size=(document_T.size, 5, 2)) + rng.normal(size=(30, 1, 1))[document_T]
    sums = LayerContributions(torch.from_numpy(directions).float(), 4)
    for part in np.array_split(np.arange(document_T.size), 7):
        sums.add(
            document_T[part],
            sp.csr_array(active[part].astype(float)),
            torch.from_numpy(outputs_TKD[part]).float(),
            experts_TK[part],
            changes_TFK[part][active[part]],
        )
    found = contrast(sums.finish(), 0.95)
    for feature in range(5):
        for expert in range(4):
            p = np.where(experts_TK == expert, outputs_TKD @ directions[feature], 0).sum(1)
            is_chosen = (experts_TK == expert).any(1)
            on, off = is_chosen & active[:, feature], is_chosen & ~active[:, feature]
            u_T = on * (p - p[on].mean()) / on.sum() - off * (p - p[off].mean()) / off.sum()
            u_D = np.bincount(document_T, u_T)
            n_D = np.bincount(document_T, on)
            clusters = n_D.sum() ** 2 / (n_D**2).sum()
            error = np.sqrt((u_D**2).sum() * clusters / (clusters - 1))
            half = (found.high - found.low)[feature, expert] / 2
            assert half / error == pytest.approx(stats.t.ppf(0.975, clusters - 1), rel=1e-4)
            middle = (found.high + found.low)[feature, expert] / 2
            assert middle == pytest.approx(p[on].mean() - p[off].mean(), abs=1e-5)
            lost_T = np.where(experts_TK == expert, changes_TFK[:, feature], 0).sum(1)
            assert found.change[feature, expert] == pytest.approx(lost_T[on].mean())
            u_D = np.bincount(document_T, on * (lost_T - lost_T[on].mean()) / on.sum())
            error = np.sqrt((u_D**2).sum() * clusters / (clusters - 1))
            half = (found.change_high - found.change_low)[feature, expert] / 2
            assert half / error == pytest.approx(stats.t.ppf(0.975, clusters - 1), rel=1e-4)


def test_a_null_contrast_is_covered():
    """Outputs know nothing of the features, but agree inside documents."""
    misses = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        document_T, active, outputs_TKD, experts_TK, directions = contributions(rng, n_documents=80)
        outputs_TKD = outputs_TKD + 0.7 * rng.normal(size=(80, 1, 8))[document_T]
        active &= rng.random((80, 5))[document_T] < 0.5
        sums = LayerContributions(torch.from_numpy(directions).float(), 4)
        fires = sp.csr_array(active.astype(float))
        sums.add(document_T, fires, torch.from_numpy(outputs_TKD).float(), experts_TK)
        found = contrast(sums.finish(), 0.95)
        misses.append((found.low > 0) | (found.high < 0))
    assert 0.025 < np.mean(misses) < 0.08


def test_a_feature_that_reads_the_next_layer_is_brought_by_its_planted_writer(model, table):
    """Features 20 and on read at layer 2 what their writers write at layer 1."""
    is_read = table["n_causal"] > 0
    assert (table["layer"][is_read] == 1).all()
    assert table["feature"][is_read].min() == 20
    is_writer = is_read & (model.writer_F[table["feature"]] == table["expert"])
    assert is_writer.any()
    assert (table["expert_causal_lo"][is_writer] > 0).all()
    others = table["expert_causal"][is_read & ~is_writer]
    assert table["expert_causal"][is_writer].min() > others.max()
    assert table["expert_causal"][is_writer].mean() > 3 * np.abs(others).mean()


def test_every_missing_number_has_a_reason(table):
    floats = [values for values in table.values() if values.dtype.kind == "f"]
    is_missing = np.isnan(floats).any(0)
    assert not np.isinf(floats).any()
    np.testing.assert_array_equal(is_missing, table["reason"] != "")
    reads, writes = table["n_causal"] > 0, ~np.isnan(table["contrast"])
    assert (reads | writes).all()
    np.testing.assert_array_equal(reads, ~np.isnan(table["expert_causal"]))


def test_tokens_of_another_text_are_refused(model, text):
    other = TokenShard(text.token_ids_SN[::-1], text.doc_ids_SN, text.positions_SN)
    one = [lambda: features_of(model, text)]
    with pytest.raises(ValueError, match="shard 0: features and tokens are of different text"):
        list(token_batches.batches(one, [lambda: other], np.arange(3)))
    with pytest.raises(ValueError, match="1 feature shards but 0 token shards"):
        list(token_batches.batches(one, [], np.arange(3)))
