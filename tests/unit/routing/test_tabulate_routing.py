import numpy as np
import planted
import pytest
from planted_shards import shards
from tokenizers import Tokenizer, models

from deepseemoe.config import RoutingConfig
from deepseemoe.corpus.documents import DOCUMENT_COLUMNS
from deepseemoe.routing import schemas, tabulate
from deepseemoe.routing.tally import bootstrap_weights
from deepseemoe.runtime.tables import read_manifest, read_table, write_table

CONFIG = RoutingConfig(min_token_count=5, n_bootstrap=100)
TABLES = {
    "load": schemas.LOAD,
    "coactivation": schemas.COACTIVATION,
    "vocabulary": schemas.VOCABULARY,
    "domains": schemas.DOMAINS,
}
LAYERS = (1, 2)
N_DOCUMENTS, FIRST_ID = 60, 100  # planted shards number documents from 100


@pytest.fixture(scope="module")
def world():
    return planted.world(2, n_documents=N_DOCUMENTS, n_features=40, n_experts=8, n_layers=2)


@pytest.fixture(scope="module")
def files(world, tmp_path_factory):
    """The corpus' own files: a tokenizer of 600 words, and documents of six domains."""
    folder = tmp_path_factory.mktemp("corpus")
    vocabulary = {f"w{n}": n for n in range(600)}
    Tokenizer(models.WordLevel(vocabulary, unk_token="w0")).save(str(folder / "tokenizer.json"))
    blank = {column.name: None for column in DOCUMENT_COLUMNS}
    domains = [0] * FIRST_ID + world.domain_D.tolist()
    rows = [blank | {"doc_id": n, "domain": f"domain{d}"} for n, d in enumerate(domains)]
    write_table(folder / "documents.parquet", DOCUMENT_COLUMNS, rows, {})
    return {"documents": folder / "documents.parquet", "tokenizer": folder}


def tabulated(monkeypatch, folder, world, files, *, n_shards=3, config=CONFIG):
    """Call tabulate_routing with doubles behind its paths; return the columns of each table."""
    stores = shards(world, n_shards, layers=LAYERS).stores
    monkeypatch.setattr(tabulate, "ActivationStore", stores.__getitem__)
    paths = {name: folder / f"{name}.parquet" for name in TABLES}
    tabulate.tabulate_routing(config, stores=range(n_shards), **files, **paths, seed=0)
    return {name: read(path) for name, path in paths.items()}


def read(path):
    table = read_table(path)
    return {name: table[name].to_numpy() for name in table.schema.names}


@pytest.fixture(scope="module")
def tables(world, files, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return tabulated(patch, tmp_path_factory.mktemp("routing"), world, files)


@pytest.fixture(scope="module")
def chosen_TLE(world):
    chosen = np.zeros((world.token_T.size, 2, 8), bool)
    np.put_along_axis(chosen, world.experts_TLK.astype(int), True, axis=2)
    return chosen


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
    for name in TABLES:
        one, other = (tmp_path / str(n) / f"{name}.parquet" for n in (0, 1))
        if name == "load":  # sums of weights are rounded in another order
            for column, values in read(one).items():
                np.testing.assert_allclose(values, read(other)[column], rtol=1e-12)
        else:
            assert one.read_bytes() == other.read_bytes()
        assert read_manifest(one)["n_tokens"] == world.token_T.size


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
