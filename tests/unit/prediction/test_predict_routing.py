"""From files to the table: what is left out, and what is refused, is said."""

import numpy as np
import planted
import pytest
import torch
from planted_shards import shards
from prediction_worlds import PENALTIES, sample_of, token_world

from deepseemoe.config import PredictionConfig
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.layout import parts_of
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.dictionary.weights import tied_weights
from deepseemoe.experts.join import join
from deepseemoe.names import Window
from deepseemoe.prediction.inputs import DictionaryInputs, encode_random
from deepseemoe.prediction.measures import Draws
from deepseemoe.prediction.predict import router_layers, score_routers, too_few
from deepseemoe.prediction.sample import TEST, draw
from deepseemoe.prediction.schemas import SCORES
from deepseemoe.prediction.scoring import Router
from deepseemoe.prediction.table import NO_PARTNERS, NOT_FITTED, blank, rows_of
from deepseemoe.runtime.tables import write_table

CONFIG = PredictionConfig(n_bootstrap=60)


def dictionary(width, n_features, n_layers=1, k=6):
    """Return a crosscoder of random directions on the first layers."""
    window = Window(0, n_layers - 1)
    part = parts_of(
        "crosscoder", n_layers=len(window.layers), d_dict=n_features, cross_layer=True,
        reconstruct_input=False,
    )[0]  # fmt: skip
    weights = tied_weights(part, d_model=width, init_norm=1.0, seed=0)
    plain = Normalisation(torch.zeros(len(window.layers), width), torch.ones(len(window.layers)))
    points = {"reads": "resid_post", "writes": "resid_post"}
    return Dictionary("crosscoder", window, k, **points, weights=weights, reading=plain,
                      writing=plain)  # fmt: skip


@pytest.fixture(scope="module")
def world():
    return planted.world(1, n_documents=60, n_features=80, n_experts=8, top_k=2, width=32)


@pytest.fixture(scope="module")
def scored(world):
    """Rows by predictor; the true directions of what a dictionary sees stand for activations."""
    sample = sample_of(world)
    acts = sample.features_TF.toarray() @ world.decoder_FM
    acts_TLD = torch.from_numpy(acts.astype(np.float32))[:, None]
    learned = dictionary(32, 80)
    others = {"random": encode_random(learned, acts_TLD, seed=0, device="cpu")}
    inputs = DictionaryInputs(learned, sample, acts_TLD, others)
    return list(score_routers(CONFIG, inputs, [1], seed=0)), sample


def test_every_predictor_has_a_row_of_all_and_one_of_each_expert(scored):
    rows, _ = scored
    names = {"base", "unigram", "bigram", "features", "unigram+features", "unigram+own",
             "unigram+shuffled", "neurons", "pca", "random"}  # fmt: skip
    assert {row["predictor"] for row in rows} == names
    assert len(rows) == len(names) * 9
    whole = {row["predictor"]: row for row in rows if row["expert"] is None}
    each = [row for row in rows if row["predictor"] == "features" and row["expert"] is not None]
    for key in ("f1", "auroc", "bits"):
        assert whole["features"][key] == pytest.approx(np.mean([row[key] for row in each]))
    assert whole["neurons"]["n_inputs"] == 32
    assert whole["pca"]["n_inputs"] == round(scored[1].features_TF.nnz / len(scored[1].before_T))


def test_the_table_is_written_as_documented_and_holds_no_infinity(scored, tmp_path):
    rows, _ = scored
    write_table(tmp_path / "scores.parquet", SCORES, rows, {})
    assert all(set(row) == {column.name for column in SCORES} for row in rows)
    numbers = [v for row in rows for v in row.values() if isinstance(v, float)]
    assert np.isfinite(numbers).all()


def test_a_random_dictionary_has_as_many_features_and_as_many_active():
    learned, acts = dictionary(16, 50), torch.randn(300, 1, 16)
    codes = encode_random(learned, acts, seed=0, device="cpu")
    assert codes.shape == (300, 50)
    assert codes.nnz == pytest.approx(300 * 6, rel=0.02)
    assert (codes.data > 0).all()
    assert (codes != encode_random(learned, acts, seed=1, device="cpu")).nnz


def test_a_crosscoder_sees_later_where_its_window_reaches_the_router(scored):
    learned = dictionary(4, 6, n_layers=2, k=2)
    inputs = DictionaryInputs(learned, scored[1], torch.zeros(0, 2, 4), {})
    assert inputs.sees_later(1)
    assert not inputs.sees_later(2)


def test_experts_without_tokens_are_left_out_and_named():
    world = token_world(0)
    world.experts_TLK[world.experts_TLK == 5] = 4
    world = world._replace(experts_TLK=np.unique(world.experts_TLK, axis=2), n_experts=9)
    sample = sample_of(world)
    router = Router(sample, 0, penalties=PENALTIES, device="cpu", seed=0)
    draws = Draws.of(int((sample.part_D == TEST).sum()), n_draws=50, confidence=0.95, seed=0)
    rows = list(rows_of(3, router, router.predictions([]), draws, sees_later=False))
    left_out = [row for row in rows if row["expert"] in (5, 8) and row["predictor"] == "unigram"]
    assert [row["reason"] for row in left_out] == [NOT_FITTED] * 2
    assert [row["f1"] for row in left_out] == [None] * 2
    whole = next(row for row in rows if row["expert"] is None and row["predictor"] == "unigram")
    assert (whole["n_experts"], whole["reason"]) == (7, "2 of 9 experts have no scores")
    assert {row["reason"] for row in rows if row["predictor"] == "unigram+own"} == {NO_PARTNERS}


def test_too_few_documents_are_said_in_the_rows(world):
    reason = too_few(sample_of(world), 100)
    assert reason.startswith("60 documents")
    assert blank(1, "features", reason)["f1"] is None
    assert too_few(sample_of(world), 60) == ""


def test_a_sample_is_drawn_from_shards_wherever_they_are_cut(world):
    drawn = []
    for n_shards in (1, 3):
        parts = shards(world, n_shards)
        joined = join(parts.features, parts.stores, layers=(1,), n_experts=8)
        drawn.append(draw(joined, parts.features, n_tokens=2000, seed=0))
    (one, places), (other, apart) = drawn
    assert 2000 <= one.token_ids_T.size < 2400
    for left, right in zip(one[:4], other[:4], strict=True):
        assert np.array_equal(left, right)
    assert (one.features_TF != other.features_TF).nnz == 0
    assert sum(map(len, apart)) == len(places[0]) == one.token_ids_T.size


def test_the_token_before_the_first_of_a_document_is_its_opening(world):
    parts = shards(world)
    joined = join(parts.features, parts.stores, layers=(1,), n_experts=8)
    sample = draw(joined, parts.features, n_tokens=10**9, seed=0).sample
    opens = np.diff(sample.documents_T, prepend=-1) != 0
    assert np.array_equal(sample.before_T[~opens], world.token_T[:-1][~opens[1:]])
    assert np.array_equal(sample.token_ids_T, world.token_T)


def test_a_window_without_routing_is_refused():
    with pytest.raises(ValueError, match="the stores hold no routing of L04 to L05"):
        router_layers("crosscoder", Window(3, 4), ["expert_ids/L03"])
    assert router_layers("transcoder", Window(2, 4), ["expert_ids/L03"]) == (3,)
