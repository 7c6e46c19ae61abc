import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from deepseemoe.routing.tables import coactivation_rows, domain_rows, load_rows, vocabulary_rows
from deepseemoe.routing.tally import Tally, Text

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("DEEPSEEMOE_DATA", ROOT.parent / "shared" / "data"))
PUBLISHED = DATA / "olmoe_routing" / "expert_counts.parquet"


def counts_of(both_EE, n_tokens, **more):
    """Return a tally and a text of one domain with these counts of pairs."""
    both_EE = np.array(both_EE)
    chosen_E = both_EE.diagonal()
    fields = {
        "weight_E": chosen_E.astype(float),
        "tokens_VE": chosen_E[None],
        "domains_CBE": chosen_E[None, None].astype(float).repeat(2, 1),
        **more,
    }
    text = Text(
        n_tokens,
        np.array([7]),
        np.array([n_tokens]),
        [f"t{n}" for n in range(10)],
        ["web"],
        np.array([[float(n_tokens)] * 2]),
        np.array([1]),
    )
    return Tally(both_EE, **fields), text


def test_a_uniform_router_has_load_one_and_shares_that_add_up_to_top_k():
    tally, text = counts_of(np.diag([50] * 4), 100)
    rows = load_rows(3, tally, text, top_k=2)
    assert rows["load"].tolist() == [1.0] * 4
    assert rows["share"].sum() == 2
    assert rows["weight_share"].sum() == 1
    assert set(rows["layer"]) == {3}


def test_independent_experts_have_coactivation_lift_one():
    chosen = np.array([20, 40, 60, 80])
    both = np.outer(chosen, chosen) / 100
    np.fill_diagonal(both, chosen)
    tally, text = counts_of(both.astype(int), 100)
    rows = coactivation_rows(0, tally, text)
    assert rows["lift"].size == 12
    np.testing.assert_allclose(rows["lift"], 1.0)
    np.testing.assert_allclose(rows["p_b_given_a"], chosen[rows["expert_b"]] / 100)


def test_an_expert_that_is_never_chosen_has_no_pairs():
    tally, text = counts_of([[5, 2, 0], [2, 5, 0], [0, 0, 0]], 10)
    rows = coactivation_rows(0, tally, text)
    assert sorted(zip(rows["expert_a"], rows["expert_b"], strict=True)) == [(0, 1), (1, 0)]


def test_a_token_that_always_goes_to_one_expert_has_lift_one_over_its_share():
    tally, text = counts_of(np.diag([25, 175]), 100, tokens_VE=np.array([[100, 0]]))
    rows = vocabulary_rows(0, tally, text)
    assert rows["token"].tolist() == ["t7"]
    assert rows["p_expert_given_token"].tolist() == [1.0]
    assert rows["lift"].tolist() == [4.0]


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="set DEEPSEEMOE_DATA to published counts")
def test_published_counts_of_olmoe_give_the_shares_of_its_paper():
    """Figure of §5.3: arXiv goes almost wholly to one expert of layer 0; Mixtral is near uniform.

    Counts are those that the authors released, of 208,896 tokens a domain.
    """
    names, n_tokens = ["arxiv", "book", "c4", "github", "wikipedia"], 208_896
    table = pq.read_table(PUBLISHED).to_pylist()

    def shares(model, n_experts, top_k):
        counts_CE = np.zeros((5, n_experts))
        wanted = (model, "topk", 0)
        rows = (r for r in table if (r["model"], r["k"], r["layer"]) == wanted)
        for row in (r for r in rows if r["domain"] in names):
            counts_CE[names.index(row["domain"]), row["expert"]] = row["count"]
        total_E = counts_CE.sum(0).astype(int)
        tally, text = counts_of(
            np.diag(total_E), 5 * n_tokens, domains_CBE=counts_CE[:, None].repeat(2, 1)
        )
        text = text._replace(
            domains=names, tokens_CB=np.full((5, 2), n_tokens), documents_C=np.full(5, 102)
        )
        load = load_rows(0, tally, text, top_k=top_k)
        assert load["share"].sum() == pytest.approx(top_k)
        assert load["load"].mean() == pytest.approx(1)
        return domain_rows(0, tally, text)

    olmoe, mixtral = shares("olmoe", 64, 8), shares("mistral", 8, 2)
    arxiv = olmoe["share"][olmoe["domain"] == "arxiv"]
    assert arxiv.max() == pytest.approx(204_013 / 208_896)
    assert np.sort(olmoe["lift"])[-1] > 2
    assert mixtral["lift"].min() > 0.6
    assert mixtral["lift"].max() < 1.6
