import json

import numpy as np
import planted
import pytest
import torch
from planted_model import PlantedDictionary
from planted_shards import shards

from deepseemoe.config import ExpertsConfig
from deepseemoe.experts import reads
from deepseemoe.experts.discovery import layer_factors, q_by_expert
from deepseemoe.experts.documents import DocumentStream
from deepseemoe.experts.evidence import weigh
from deepseemoe.experts.join import join
from deepseemoe.experts.order import combined
from deepseemoe.experts.rows import EFFECTS, layer_rows
from deepseemoe.experts.schemas import EFFECTS as EFFECTS_TABLE
from deepseemoe.experts.schemas import READS
from deepseemoe.experts.support import count_firings, supported_features
from deepseemoe.names import Window
from deepseemoe.runtime.tables import TableWriter, read_table
from deepseemoe.trust.world import causal_effects

CONFIG = ExpertsConfig(n_permutations=60)


def pairs_of(world, config=CONFIG, *, causal=True):
    """Return the map of a world of one layer, with which pairs are planted."""
    parts = shards(world)
    joined = join(parts.features, parts.stores, layers=(1,), n_experts=world.n_experts)
    evidence = next(weigh(joined, config, count_firings(joined.text), seed=0))
    router_EM = world.router_LEM[0] - world.router_LEM[0].mean(0)
    weights_FE = world.decoder_FM[evidence.features_F] @ router_EM.T
    w_map_FE = weights_FE * evidence.mean_activation_F[:, None]
    effects = effects_of(world, evidence.features_F)[0] if causal else None
    rows, _ = layer_rows(1, evidence, w_map_FE=w_map_FE, effects=effects)
    return rows, world.truth_LFE[0][rows["feature"], rows["expert"]]


def effects_of(world, features_F):
    """Return effects of the features as the dictionary knows them, a dict of (F, E) each layer."""
    dp_LFE = causal_effects(world, world.features_TF, world.decoder_FM, most=400)[:, features_F]
    no_bound = {"causal_dp_lo": dp_LFE - 0.02, "causal_dp_hi": dp_LFE + 0.02}
    named = {"causal_dp": dp_LFE, **no_bound}
    measured = {"reason": np.array("", dtype=object), "n_causal": np.array(400)}
    return [{n: v[place] for n, v in named.items()} | measured for place in range(len(dp_LFE))]


def scores(rows, is_true, name="rank", sign=-1):
    """Return average precision and share of true first places, each averaged over experts."""
    precision, first = [], []
    for expert in np.unique(rows["expert"][is_true]):
        mine = rows["expert"] == expert
        score = sign * rows[name][mine].astype(float)
        precision.append(planted.average_precision(score, is_true[mine]))
        first.append(is_true[mine][np.argmax(score)])
    return np.mean(precision), np.mean(first)


@pytest.fixture(scope="module")
def worlds():
    return [planted.world(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def maps(worlds):
    return [pairs_of(world) for world in worlds]


def test_the_map_finds_the_planted_expert(maps):
    precision, first = np.mean([scores(*one) for one in maps], axis=0)
    assert precision > 0.82
    assert first > 0.97


def test_the_order_finds_more_than_any_single_statistic(maps):
    precision, _ = np.mean([scores(*one) for one in maps], axis=0)
    singles = ("lift", "lor", "lor_lo", "rd", "rho", "z_perm", "w_map", "n_both", "causal_dp")
    for name in singles:
        single, _ = np.mean([scores(*one, name, 1) for one in maps], axis=0)
        assert precision > single + 0.03, name


def test_found_pairs_hold_most_planted_ones_and_enrich_for_them(maps):
    for rows, is_true in maps:
        is_found = (rows["q"] < 0.05) & (rows["lor"] > 0)
        assert is_found[is_true].mean() > 0.75
        assert is_true[is_found].mean() > 2.5 * is_true.mean()


def test_tier_a_is_nearly_always_causal_and_tier_c_seldom(worlds, maps):
    for world, (rows, is_true) in zip(worlds, maps, strict=True):
        effect = world.effect_LFE[0][rows["feature"], rows["expert"]]
        in_a, in_c = ((rows["tier"] == tier) & (rows["lor"] > 0) for tier in "AC")
        assert (effect[in_a] > 0.02).mean() > 0.95
        assert (effect[in_c] > 0.02).mean() < 0.65
        assert in_a[is_true].mean() > 0.5


def test_without_effects_the_regressions_alone_still_find_it(worlds):
    maps = [pairs_of(world, causal=False) for world in worlds]
    assert (np.mean([scores(*one) for one in maps], axis=0) > [0.7, 0.9]).all()
    for rows, _ in maps:
        assert np.isnan(rows["causal_dp"]).all()
        assert all("causal: effects were not measured" in reason for reason in rows["reason"])
        assert not (rows["tier"] == "A").any()


def test_every_missing_number_has_a_reason_and_none_is_infinite(maps):
    for rows, _ in maps:
        for name, values in rows.items():
            if values.dtype.kind == "f":
                assert not np.isinf(values).any(), name
                if not name.startswith(("full", "causal_dm", "token_share", "lor_token_se")):
                    missing = np.isnan(values)
                    assert all(name in reason for reason in rows["reason"][missing]), name


def test_a_hard_world_is_still_read():
    found = [scores(*pairs_of(planted.world(seed, cosine=0.6, imbalance=2.0))) for seed in range(2)]
    assert (np.mean(found, axis=0) > [0.65, 0.85]).all()


def test_permuting_experts_permutes_the_table(worlds):
    new = np.random.default_rng(0).permutation(16)
    world = worlds[0]
    moved = world._replace(
        experts_TLK=new[world.experts_TLK].astype(np.uint8),
        router_LEM=world.router_LEM[:, np.argsort(new)],
        effect_LFE=world.effect_LFE[:, :, np.argsort(new)],
    )
    one, other = pairs_of(world)[0], pairs_of(moved)[0]
    order = np.lexsort((one["rank"], new[one["expert"]]))
    assert np.array_equal(new[one["expert"]][order], other["expert"])
    for name in set(one) - {"expert"}:
        if one[name].dtype.kind in "fiu":
            values = one[name][order], other[name]
            np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_only_pairs_with_support_are_tested(maps):
    for rows, _ in maps:
        assert rows["n_feature"].min() >= CONFIG.min_tokens
        assert rows["n_documents"].min() >= CONFIG.min_documents
        assert rows["expected"].min() >= CONFIG.min_expected


def test_ranks_count_from_one_in_each_expert(maps):
    for rows, _ in maps:
        for expert in range(16):
            mine = rows["expert"] == expert
            assert np.array_equal(rows["rank"][mine], np.arange(1, mine.sum() + 1))


def test_the_order_adds_up_the_places_of_three_accounts():
    high, low = np.array([3.0, 2, 1, 0]), np.array([0.0, 1, 2, 3])
    assert np.argsort(-combined(high, high, low)).tolist()[0] == 0
    nothing = np.full(4, np.nan)
    np.testing.assert_allclose(combined(high, nothing, low), combined(high, high, low))
    np.testing.assert_allclose(combined(high, high, nothing), combined(high, high, high))


def write_effects(path, config, world, parts):
    """Write effects of a world of layers 1 and 2 as measure_effects does."""
    text = DocumentStream(parts.features)
    features = supported_features(config, count_firings(text))
    n_experts = world.n_experts
    numbers = [name for name in EFFECTS if not name.startswith("causal_dp")]
    with TableWriter(path, EFFECTS_TABLE, {"layers": [1, 2], "n_experts": n_experts}) as table:
        for layer, effects in zip((1, 2), effects_of(world, features), strict=True):
            size = features.size * n_experts
            columns = {name: np.full(size, np.nan) for name in (*numbers, "w_map")}
            columns |= {n: effects[n].ravel() for n in effects if n.startswith("causal_dp")}
            columns |= {"n_causal": np.full(size, 400), "n_full": np.zeros(size, int)}
            columns |= {"layer": np.full(size, layer), "reason": np.full(size, "")}
            columns["feature"] = np.repeat(features, n_experts)
            columns["expert"] = np.tile(np.arange(n_experts), features.size)
            columns["w_map"] = np.ones(size)
            table.write(columns)


def written(monkeypatch, tmp_path, world, config=CONFIG, *, n_shards=3, d_dict=None):
    """Call map_reads with doubles behind its paths; return the table and the summary."""
    parts = shards(world, n_shards, layers=(1, 2))
    decoder_FLD = torch.from_numpy(world.decoder_FM[:d_dict, None]).repeat(1, 2, 1)
    opened = {
        "Dictionary": PlantedDictionary("crosscoder", Window(0, 1), decoder_FLD),
        **{f"features{n}": shard for n, shard in enumerate(parts.features)},
        **{f"store{n}": store for n, store in enumerate(parts.stores)},
    }

    class Opens:
        load = staticmethod(lambda _: opened["Dictionary"])
        open = staticmethod(lambda name: opened[name]())

    monkeypatch.setattr(reads, "Dictionary", Opens)
    monkeypatch.setattr(reads, "FeatureShard", Opens)
    monkeypatch.setattr(reads, "ActivationStore", opened.__getitem__)
    names = {"reads": "reads.parquet", "agreement": "agreement.parquet", "summary": "summary.json"}
    files = {name: tmp_path / file for name, file in names.items()}
    write_effects(tmp_path / "effects.parquet", config, world, parts)
    reads.map_reads(
        config,
        dictionary="dictionary",
        effects=tmp_path / "effects.parquet",
        feature_shards=[f"features{n}" for n in range(n_shards)],
        stores=[f"store{n}" for n in range(n_shards)],
        seed=0,
        **files,
    )
    return read_table(files["reads"]), json.loads(files["summary"].read_text())


@pytest.fixture(scope="module")
def two_layers():
    return planted.world(0, n_documents=150, n_features=60, n_layers=2)


def test_the_files_hold_every_layer_and_say_what_was_tested(monkeypatch, tmp_path, two_layers):
    table, summary = written(monkeypatch, tmp_path, two_layers)
    assert table.schema.names == [column.name for column in READS]
    layer, feature, expert = (table[n].to_numpy() for n in ("layer", "feature", "expert"))
    assert set(layer) == {1, 2}
    is_true = two_layers.truth_LFE[layer - 1, feature, expert]
    for one in (1, 2):
        best = (layer == one) & (table["rank"].to_numpy() == 1)
        assert is_true[best].mean() > 0.9
    q = table["q"].to_numpy()
    assert summary["layers"] == [1, 2]
    assert summary["n_tested"] == len(table)
    assert summary["n_kept"] == (q < 0.05).sum()
    assert summary["n_pairs"] == 60 * 32 == len(table) + sum(summary["not_tested"].values())
    assert 0 < summary["null"]["share_p_below_.05"] < 0.12
    assert not np.isnan(table["w_map"].to_numpy()).any()


def test_q_all_goes_down_the_tree_of_all_layers(monkeypatch, tmp_path, two_layers):
    table, summary = written(monkeypatch, tmp_path, two_layers)
    layer, expert, p = (table[name].to_numpy() for name in ("layer", "expert", "p_perm"))
    trees = [q_by_expert(expert[layer == one], p[layer == one], 0.05) for one in (1, 2)]
    q_L, factor_L = layer_factors(np.array([of_layer for _, of_layer in trees]), 0.05)
    for one, (q, of_layer), q_layer, factor in zip((1, 2), trees, q_L, factor_L, strict=True):
        expected = np.minimum(np.maximum(q * factor, q_layer), 1)
        np.testing.assert_allclose(table["q_all"].to_numpy()[layer == one], expected)
        assert summary["by_layer"][one - 1]["p"] == pytest.approx(of_layer)


def test_agreement_has_every_expert_and_pair_of_kinds(monkeypatch, tmp_path, two_layers):
    written(monkeypatch, tmp_path, two_layers)
    table = read_table(tmp_path / "agreement.parquet")
    assert len(table) == 2 * 16 * 3
    beside = [str(reason) for reason in table["reason"].to_pylist()]
    for value, reason in zip(table["spearman"].to_pylist(), beside, strict=True):
        assert (value is None) == bool(reason)
    both = np.array([v for v, one, other in zip(table["spearman"].to_pylist(),
                     table["one"].to_pylist(), table["other"].to_pylist(), strict=True)
                     if (one, other) == ("regression", "causal")])  # fmt: skip
    assert np.mean(both) > 0.4


def test_the_same_files_come_out_again_however_shards_are_cut(monkeypatch, tmp_path, two_layers):
    for place, n_shards in enumerate((1, 5)):
        (tmp_path / str(place)).mkdir()
        written(monkeypatch, tmp_path / str(place), two_layers, n_shards=n_shards)
    for name in ("reads.parquet", "summary.json"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


def test_a_run_too_small_to_test_anything_gives_an_empty_table(monkeypatch, tmp_path, two_layers):
    strict = ExpertsConfig(n_permutations=50, min_tokens=10**6)
    table, summary = written(monkeypatch, tmp_path, two_layers, strict)
    assert len(table) == 0
    assert summary["n_tested"] == 0
    assert "no feature fires on 1000000 tokens in 20 documents" in summary["problem"]
    assert summary["null"]["share_p_below_.05"] is None


def test_too_few_documents_are_told_with_what_to_do(monkeypatch, tmp_path):
    world = planted.world(0, n_documents=12, n_features=20, n_layers=2)
    table, summary = written(monkeypatch, tmp_path, world)
    assert len(table) == 0
    assert summary["problem"].startswith("12 documents in the test split, but a feature must fire")
    assert "give the test split more text" in summary["problem"]


def test_an_expert_that_is_never_chosen_is_not_tested_and_has_no_infinite_number():
    world = planted.null_world(0, n_documents=60, n_features=20)
    parts = shards(world)
    joined = join(parts.features, parts.stores, layers=(1,), n_experts=17)
    evidence = next(weigh(joined, CONFIG, count_firings(joined.text), seed=0))
    assert not evidence.is_tested_FE[:, 16].any()
    assert evidence.is_tested_FE[:, :16].any()
    for name in evidence.columns:
        assert not np.isinf(evidence.column(name)).any(), name


def test_features_of_another_dictionary_are_refused(monkeypatch, tmp_path, two_layers):
    with pytest.raises(ValueError, match="60 features, but dictionary has 50"):
        written(monkeypatch, tmp_path, two_layers, d_dict=50)


def test_a_crosscoder_is_read_one_layer_up_and_a_transcoder_where_it_stands():
    assert reads.router_layers("crosscoder", Window(1, 3), range(8)) == (2, 3, 4)
    assert reads.router_layers("transcoder", Window(1, 3), range(8)) == (1, 2, 3)
    assert reads.router_layers("crosscoder", Window(0, 3), range(2, 4)) == (2, 3)


def test_a_window_that_no_router_reads_is_refused_with_one_that_is():
    with pytest.raises(
        ValueError, match=r"L04-L04 read .* experts are L01, L02, L03; .* L00 to L02"
    ):
        reads.router_layers("crosscoder", Window(3, 3), (1, 2, 3))
    with pytest.raises(ValueError, match="a window that meets L01 to L03"):
        reads.router_layers("transcoder", Window(0, 0), (1, 2, 3))
