import numpy as np
import pytest
from planted_shards import shards

from deepseemoe.config import RoutingConfig
from deepseemoe.routing import tabulate
from deepseemoe.routing.bootstrap import bootstrap_weights
from deepseemoe.runtime.tables import read_manifest, read_table

CONFIG = RoutingConfig(min_token_count=5, n_bootstrap=100)
TABLES = tabulate.TABLES
LAYERS = (1, 2)


def tabulated(monkeypatch, folder, world, files, *, n_shards=3, config=CONFIG, stores=None):
    """Call tabulate_routing with doubles behind its paths; return the columns of each table."""
    stores = stores or shards(world, n_shards, layers=LAYERS).stores
    monkeypatch.setattr(tabulate, "ActivationStore", stores.__getitem__)
    paths = {name: folder / f"{name}.parquet" for name in TABLES}
    tabulate.tabulate_routing(config, stores=range(n_shards), **files, tables=paths, seed=0)
    return {name: read(path) for name, path in paths.items()}


def read(path):
    table = read_table(path)
    return {name: table[name].to_numpy() for name in table.schema.names}


@pytest.fixture(scope="module")
def tables(world, files, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return tabulated(patch, tmp_path_factory.mktemp("routing"), world, files)


def is_cut(world, n_shards=3):
    """Return which tokens end a shard; their next token is in another."""
    at = np.flatnonzero(np.insert(np.ones(world.token_T.size), opens_of(world), 0))
    n_rows = world.token_T.size + opens_of(world).size
    edges = np.linspace(0, n_rows, n_shards + 1).astype(int)[1:-1]
    return np.isin(at, edges - 1)


def opens_of(world):
    return np.flatnonzero(np.diff(world.document_T, prepend=-1))


def test_tables_have_their_documented_columns(tables):
    for name, columns in TABLES.items():
        assert list(tables[name]) == [column.name for column in columns]


def test_load_counts_valid_tokens_alone(world, tables, chosen_TLE):
    load, place = tables["load"], tables["load"]["layer"] - 1
    assert np.array_equal(load["n_tokens"], chosen_TLE.sum(0)[place, load["expert"]])
    np.testing.assert_allclose(load["share"], load["n_tokens"] / world.token_T.size)
    np.testing.assert_allclose(load["load"], load["share"] / (4 / 8))
    for layer in (0, 1):
        here = load["layer"] == layer + 1
        is_one = world.experts_TLK[:, layer] == 3
        weight = world.weights_TLK[:, layer].astype(float)
        expected = weight[is_one].sum() / weight.sum()
        assert load["weight_share"][here][3] == pytest.approx(expected)


def test_coactivation_counts_all_pairs_of_a_tokens_experts(tables, chosen_TLE):
    rows, n = tables["coactivation"], len(chosen_TLE)
    assert len(rows["lift"]) == 2 * 8 * 7
    for layer, a, b in [(1, 0, 5), (2, 5, 0), (2, 7, 1)]:
        of_a, of_b = chosen_TLE[:, layer - 1, a], chosen_TLE[:, layer - 1, b]
        row = np.flatnonzero(
            (rows["layer"] == layer) & (rows["expert_a"] == a) & (rows["expert_b"] == b)
        )[0]
        both = (of_a & of_b).sum()
        assert rows["n_tokens"][row] == both
        assert rows["p_b_given_a"][row] == pytest.approx(both / of_a.sum())
        assert rows["lift"][row] == pytest.approx(both * n / of_a.sum() / of_b.sum())


def test_vocabulary_has_the_tokens_that_occur_often_enough(world, tables, chosen_TLE):
    rows = tables["vocabulary"]
    occurrences = np.bincount(world.token_T)
    assert set(rows["token_id"]) == set(np.flatnonzero(occurrences >= 5))
    assert rows["token"].tolist() == [f"w{n}" for n in rows["token_id"]]
    for row in range(0, len(rows["lift"]), 211):
        here = world.token_T == rows["token_id"][row]
        is_chosen = chosen_TLE[:, rows["layer"][row] - 1, rows["expert"][row]]
        share = is_chosen[here].mean()
        assert rows["n_tokens"][row] == is_chosen[here].sum() > 0
        assert rows["p_expert_given_token"][row] == pytest.approx(share)
        assert rows["lift"][row] == pytest.approx(share / is_chosen.mean())


def test_following_tokens_are_those_of_the_same_segment(world, tables, chosen_TLE):
    """A document is one segment in the planted shards, so its last token has none."""
    rows = tables["vocabulary_next"]
    ends = np.append(np.diff(world.document_T) != 0, True)
    following = np.where(ends, -1, np.append(world.token_T[1:], -1))
    inside = ~is_cut(world)
    for row in range(0, len(rows["lift"]), 401):
        here = (following == rows["token_id"][row]) & inside
        is_chosen = chosen_TLE[:, rows["layer"][row] - 1, rows["expert"][row]]
        assert rows["n_tokens"][row] == is_chosen[here].sum()


def test_layers_have_their_measures_beside_chance(world, tables, chosen_TLE):
    layers = tables["load_layers"]
    assert layers["layer"].tolist() == list(LAYERS)
    for place in (0, 1):
        share = chosen_TLE[:, place].sum(0) / chosen_TLE[:, place].sum()
        bits = -(share * np.log2(share)).sum()
        assert layers["load_bits"][place] == pytest.approx(bits)
        assert layers["effective_experts"][place] == pytest.approx(2**bits)
        weights = world.weights_TLK[:, place].astype(float)
        weights /= weights.sum(1, keepdims=True)
        gate = -(weights * np.log2(np.maximum(weights, 1e-30))).sum(1).mean()
        assert layers["gate_bits"][place] == pytest.approx(gate)
        assert layers["gate_bits_lo"][place] < gate < layers["gate_bits_hi"][place]
    assert (layers["chance_load_bits"] == 3).all()
    assert (layers["max_gate_bits"] == 2).all()
    assert np.isnan(layers["router_bits"]).all()
    assert set(layers["reason"]) == {"stores hold no router_logits"}
    vocabulary = tables["vocabulary_layers"]
    reads = vocabulary["side"] == "input"
    assert reads.sum() == 2
    assert (vocabulary["bits_above_chance_lo"][reads] > 0).all()
    assert (vocabulary["bits"][reads] > vocabulary["chance_bits"][reads]).all()
    follows = vocabulary["bits_above_chance"][~reads]  # features of spans know a little of it
    assert (follows < 0.5 * vocabulary["bits_above_chance"][reads]).all()


def test_domains_have_shares_lifts_and_intervals_around_them(world, tables, chosen_TLE):
    rows = tables["domains"]
    assert len(rows["lift"]) == 2 * 8 * np.unique(world.domain_D).size
    domain_T = world.domain_D[world.document_T]
    for row in range(0, len(rows["lift"]), 7):
        here = domain_T == int(rows["domain"][row].removeprefix("domain"))
        is_chosen = chosen_TLE[:, rows["layer"][row] - 1, rows["expert"][row]]
        assert rows["n_tokens"][row] == is_chosen[here].sum()
        assert rows["share"][row] == pytest.approx(is_chosen[here].mean())
        assert rows["lift"][row] == pytest.approx(is_chosen[here].mean() / is_chosen.mean())
    assert (rows["share_lo"] < rows["share"]).all()
    assert (rows["share"] < rows["share_hi"]).all()


def test_intervals_are_those_of_a_bootstrap_of_documents(world, tables, chosen_TLE):
    """Against 2000 multinomial draws of the documents of a domain, to a tenth of its width."""
    rows, rng = tables["domains"], np.random.default_rng(0)
    row = np.flatnonzero((rows["layer"] == 1) & (rows["domain"] == "domain2"))[4]
    documents = np.flatnonzero(world.domain_D == 2)
    is_chosen = chosen_TLE[:, 0, rows["expert"][row]]
    hits = np.bincount(world.document_T, is_chosen)[documents]
    tokens = np.bincount(world.document_T)[documents]
    draws = rng.multinomial(documents.size, np.full(documents.size, 1 / documents.size), 2000)
    low, high = np.quantile(draws @ hits / (draws @ tokens), [0.025, 0.975])
    assert abs(rows["share_lo"][row] - low) < 0.35 * (high - low)
    assert abs(rows["share_hi"][row] - high) < 0.35 * (high - low)


def test_shard_boundaries_do_not_change_the_files(monkeypatch, tmp_path, world, files):
    for place, n_shards in enumerate((1, 5)):
        (tmp_path / str(place)).mkdir()
        tabulated(monkeypatch, tmp_path / str(place), world, files, n_shards=n_shards)
    tables = {name: [tmp_path / str(n) / f"{name}.parquet" for n in (0, 1)] for name in TABLES}
    for name in ("coactivation", "vocabulary", "domains"):
        one, other = tables[name]
        assert one.read_bytes() == other.read_bytes()
        assert read_manifest(one)["n_tokens"] == world.token_T.size
    for name in ("load", "load_layers"):  # sums of floats are rounded in another order
        one, other = (read(path) for path in tables[name])
        for column in (column for column in one if column != "reason"):
            np.testing.assert_allclose(one[column], other[column], rtol=1e-12)
    one, other = (read(path) for path in tables["vocabulary_layers"])
    reads = one["side"] == "input"  # what follows the last token of a shard is not known
    for column in ("bits", "top_share", "n_types", "n_tokens"):
        assert np.array_equal(one[column][reads], other[column][reads])


def test_a_document_weighs_the_same_in_every_shard_and_one_on_average():
    weights = bootstrap_weights(np.arange(400), 50, seed=3)
    assert np.array_equal(weights[17:18], bootstrap_weights(np.array([17]), 50, seed=3))
    assert (weights[:, 0] == 1).all()
    assert weights[:, 1:].mean() == pytest.approx(1, abs=0.03)
    assert weights[:, 1:].var() == pytest.approx(1, abs=0.06)


def test_a_domain_of_one_document_has_no_interval(monkeypatch, tmp_path, world, files):
    lonely = world._replace(document_T=np.zeros_like(world.document_T))
    rows = tabulated(monkeypatch, tmp_path, lonely, files)["domains"]
    assert np.isfinite(rows["share"]).all()
    assert np.isnan(rows["share_lo"]).all()


def test_files_of_another_run_are_refused(monkeypatch, tmp_path, world, files):
    strange = world._replace(token_T=world.token_T + 600)
    with pytest.raises(ValueError, match="knows token_id 0 to 599, but the activation stores have"):
        tabulated(monkeypatch, tmp_path, strange, files)
    strange = world._replace(document_T=world.document_T + 500)
    with pytest.raises(ValueError, match="knows doc_id 0 to 159, but the activation stores have"):
        tabulated(monkeypatch, tmp_path, strange, files)


def test_router_entropy_is_that_of_stored_logits(monkeypatch, tmp_path, world, files):
    stores, rng, bits = shards(world, 2, layers=LAYERS).stores, np.random.default_rng(0), []
    for store in stores:
        for layer in LAYERS:
            logits = rng.normal(size=(store.n_tokens, 8)).astype(np.float32)
            store._arrays[f"router_logits/L{layer:02d}"] = logits
        share = np.exp(logits[store.valid_rows()].astype(float))
        share /= share.sum(1, keepdims=True)
        bits.append(-(share * np.log2(share)).sum(1))
    found = tabulated(monkeypatch, tmp_path, world, files, n_shards=2, stores=stores)
    rows = found["load_layers"]
    assert rows["router_bits"][-1] == pytest.approx(np.concatenate(bits).mean())
    assert rows["router_bits_lo"][-1] < rows["router_bits"][-1] < rows["router_bits_hi"][-1]
    assert set(rows["reason"]) == {""}
