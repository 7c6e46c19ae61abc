"""measure_specialisation and trace_paths on planted shards, against plain loops over tokens."""

import numpy as np
import pytest
from planted_shards import shards

from deepseemoe.config import RoutingConfig
from deepseemoe.routing import specialise, trace
from deepseemoe.routing.relevance import relevance, select
from deepseemoe.runtime.tables import read_table

CONFIG = RoutingConfig(min_token_count=5, n_bootstrap=60, n_permutations=60, n_paths=5)
LAYERS = (1, 2, 4)


def run(stage, call, folder, world, files, *, n_shards=3, layers=LAYERS):
    """Call a stage with doubles behind its paths; return the columns of each table."""
    stores = shards(world, n_shards, layers=layers).stores
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "ActivationStore", stores.__getitem__)
        paths = {name: folder / f"{name}.parquet" for name in stage.TABLES}
        call(CONFIG, stores=range(n_shards), **files, tables=paths, seed=0)
    tables = {name: read_table(path) for name, path in paths.items()}
    for name, columns in stage.TABLES.items():
        assert tables[name].schema.names == [column.name for column in columns]
    return {
        name: {column: table[column].to_numpy() for column in table.schema.names}
        for name, table in tables.items()
    }


@pytest.fixture(scope="module")
def three_layers(world):
    """The world with a third layer, whose experts are those of the first, renamed."""
    place = np.array([0, 1, 0])
    ids, weights = world.experts_TLK[:, place].copy(), world.weights_TLK[:, place]
    ids[:, 2] = (ids[:, 2] + 1) % 8
    return world._replace(experts_TLK=ids, weights_TLK=weights)


@pytest.fixture(scope="module")
def special(three_layers, files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("special")
    return run(specialise, specialise.measure_specialisation, folder, three_layers, files)


@pytest.fixture(scope="module")
def traced(three_layers, files, tmp_path_factory):
    return run(trace, trace.trace_paths, tmp_path_factory.mktemp("traced"), three_layers, files)


def test_planted_domains_are_told_by_experts(world, special):
    rows = special["specialisation"]
    assert rows["layer"].tolist() == list(LAYERS)
    assert (rows["n_documents"] == world.domain_D.size).all()
    assert (rows["bits_above_chance"] > 0).all()
    np.testing.assert_allclose(rows["bits_above_chance"], rows["bits"] - rows["chance_bits"])
    assert rows["p"].max() < 0.05
    assert (rows["bits_above_chance_lo"] < rows["bits_above_chance_hi"]).all()
    assert rows["bits"][0] == pytest.approx(rows["bits"][2])  # renamed experts tell the same
    assert set(rows["reason"]) == {""}


def test_domains_that_say_nothing_are_told_by_nobody(three_layers, files, tmp_path, world):
    """The same routing, whose documents have domains by their number: p above .05 somewhere."""
    rng = np.random.default_rng(11)
    tokens = world.document_T
    shuffled = rng.permutation(world.domain_D.size)[tokens]
    order = np.argsort(shuffled, kind="stable")
    null = three_layers._replace(
        document_T=shuffled[order],
        token_T=world.token_T[order],
        experts_TLK=three_layers.experts_TLK[order],
        weights_TLK=three_layers.weights_TLK[order],
    )
    rows = run(specialise, specialise.measure_specialisation, tmp_path, null, files)
    assert (rows["specialisation"]["p"] > 0.02).all()
    above, chance = (rows["specialisation"][n] for n in ("bits_above_chance", "chance_bits"))
    assert (above < 0.5 * chance).all()


def test_divergences_are_those_of_the_domains_shares(three_layers, special):
    rows, domain_T = special["divergence"], three_layers.domain_D[three_layers.document_T]
    assert len(rows["bits"]) == 3 * 6 * 5 / 2
    for row in range(0, len(rows["bits"]), 4):
        place = LAYERS.index(rows["layer"][row])
        shares = []
        for side in ("domain_a", "domain_b"):
            here = domain_T == int(rows[side][row].removeprefix("domain"))
            counts = np.bincount(three_layers.experts_TLK[here, place].ravel(), minlength=8)
            shares.append(counts / counts.sum())
        middle = (shares[0] + shares[1]) / 2
        kl = [np.sum(share * np.log2(share / middle)) for share in shares]
        assert rows["bits"][row] == pytest.approx(np.mean(kl))
        assert 0 < rows["p"][row] <= 1


def test_relevance_of_a_domain_is_that_of_its_tokens(three_layers, special):
    rows, domain_T = special["relevance"], three_layers.domain_D[three_layers.document_T]
    for domain in (0, 3):
        here = domain_T == domain
        ids, weights = three_layers.experts_TLK[here], three_layers.weights_TLK[here]
        found = relevance(ids, weights.astype(float), n_experts=8, decimals=None)
        chosen = relevance(ids, weights.astype(float), n_experts=8)
        for place, layer in enumerate(LAYERS):
            mine = (rows["domain"] == f"domain{domain}") & (rows["layer"] == layer)
            assert (rows["n_tokens"][mine] == here.sum()).all()
            for name, all_LE, scores_LE, top_p in (
                ("token", found.token_LE, chosen.token_LE, 0.2),
                ("gate", found.gate_LE, chosen.gate_LE, 0.1),
            ):
                np.testing.assert_allclose(rows[f"{name}_score"][mine], all_LE[place])
                picked = np.flatnonzero(rows[f"by_{name}"][mine])
                assert sorted(picked) == sorted(select(scores_LE[place], top_p))
                assert (rows[f"{name}_lo"][mine] < rows[f"{name}_score"][mine]).all()
                assert (rows[f"{name}_score"][mine] < rows[f"{name}_hi"][mine]).all()


def test_paths_are_counted_over_all_shards(three_layers, traced):
    rows = traced["paths"]
    assert len(rows["lift"]) == 2 * 8 * 8
    for row in range(0, len(rows["lift"]), 9):
        places = [LAYERS.index(rows[name][row]) for name in ("layer", "later_layer")]
        assert places[1] == places[0] + 1
        first, later = (
            (three_layers.experts_TLK[:, place] == rows[name][row]).any(1)
            for place, name in zip(places, ("expert", "later_expert"), strict=True)
        )
        assert rows["n_tokens"][row] == (first & later).sum()
        assert rows["lift"][row] == pytest.approx(later[first].mean() / later.mean())
        assert rows["lift_lo"][row] <= rows["lift_hi"][row]


def test_layers_of_one_residual_share_bits(traced):
    rows = traced["paths_layers"]
    assert list(zip(rows["layer"], rows["later_layer"], strict=True)) == [(1, 2), (2, 4)]
    assert (rows["bits_above_chance_lo"] > 0).all()
    assert rows["p"] == pytest.approx([1 / 21] * 2)


def test_the_top_paths_come_back_where_the_third_layer_repeats_the_first(three_layers, traced):
    rows = traced["paths_top"]
    assert rows["rank"].tolist() == [1, 2, 3, 4, 5]
    assert rows["layer_3"].tolist() == [4] * 5
    for row in range(5):
        has = [
            (three_layers.experts_TLK[:, n] == rows[f"expert_{n + 1}"][row]).any(1)
            for n in range(3)
        ]
        assert rows["n_tokens"][row] == np.logical_and.reduce(has).sum()
    returns = rows["expert_3"] == (rows["expert_1"] + 1) % 8
    assert (rows["markov_lift"][returns] > 1.2).all()
    assert returns.any()


def test_one_layer_has_no_paths_and_one_document_no_p(three_layers, files, tmp_path):
    lonely = three_layers._replace(document_T=np.zeros_like(three_layers.document_T))
    found = run(trace, trace.trace_paths, tmp_path, lonely, files, layers=(1,))
    assert [len(table["n_tokens"]) for table in found.values()] == [0, 0, 0]
    found = run(specialise, specialise.measure_specialisation, tmp_path, lonely, files)
    rows = found["specialisation"]
    assert set(rows["reason"]) == {"documents of one domain alone"}
    assert np.isnan(rows["p"]).all()
    assert (found["divergence"]["reason"] == "documents of one domain alone").all()
    assert np.isnan(found["relevance"]["token_lo"]).all()
