"""Our measures on routing that others published; skipped where DEEPSEEMOE_DATA is not set."""

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from published import needs

from deepseemoe.routing.coactivation import coactivation
from deepseemoe.routing.information import mutual_information
from deepseemoe.routing.load import load
from deepseemoe.routing.paths import cross_layer
from deepseemoe.routing.specialisation import domain_shares, specialisation

COUNTS, needs_olmoe = needs("olmoe_routing", "expert_counts.parquet")
TRACES, needs_gptoss = needs("gptoss20b_routing", "token_traces_mmlu_test.parquet")
DOMAINS = ["arxiv", "book", "c4", "github", "wikipedia"]
N_TOKENS = 208_896  # of each domain, as OLMoE's authors ran it


def olmoe_counts(model, k, layer, n_experts):
    """Return the published counts of domains and experts (C, E)."""
    counts = np.zeros((len(DOMAINS), n_experts), int)
    for row in pq.read_table(COUNTS).to_pylist():
        if (row["model"], row["k"], row["layer"]) == (model, k, layer) and row["domain"] in DOMAINS:
            counts[DOMAINS.index(row["domain"]), row["expert"]] = row["count"]
    return counts


def tokens_with(counts_CE, top_k):
    """Return tokens whose distinct experts have these counts in each domain: ids and domains.

    Who goes with whom is not published. Laid out one after the other in rows of as many as there
    are tokens, an expert that at most all tokens chose stands in a column at most once.
    """
    parts = [np.repeat(np.arange(row.size), row).reshape(top_k, -1).T for row in counts_CE]
    return np.concatenate(parts), np.repeat(np.arange(len(DOMAINS)), [len(part) for part in parts])


@needs_olmoe
@pytest.mark.parametrize("layer", [0, 7, 15])
@pytest.mark.parametrize(
    ("model", "k", "n_experts", "top_k"),
    [("olmoe", "topk", 64, 8), ("olmoe", "top1", 64, 1), ("mistral", "topk", 8, 2)],
)
def test_published_counts_come_back_as_load_and_domain_shares(model, k, layer, n_experts, top_k):
    counts = olmoe_counts(model, k, layer, n_experts)
    ids, domain = tokens_with(counts, top_k)
    assert (np.diff(np.sort(ids, axis=1), axis=1) > 0).all()
    found = domain_shares(ids, domain, n_experts)
    assert found.domains == list(range(len(DOMAINS)))
    assert found.n_tokens_C.tolist() == [N_TOKENS] * 5
    np.testing.assert_allclose(found.share_CE, counts / N_TOKENS, rtol=1e-12)
    assert found.chance == top_k / n_experts
    of_all = load(ids, n_experts)
    assert np.array_equal(of_all.n_tokens_E, counts.sum(0))
    assert of_all.share_E.sum() == pytest.approx(top_k)


@needs_olmoe
def test_olmoe_knows_domains_as_its_paper_says_and_mixtral_does_not():
    """§5.3: an expert of layer 0 takes almost all of arXiv; Mixtral is near a uniform router."""
    bits = {}
    for model, n_experts in (("olmoe", 64), ("mistral", 8)):
        for layer in (0, 7, 15):
            counts = olmoe_counts(model, "topk", layer, n_experts)
            bits[model, layer] = mutual_information(counts)
    assert olmoe_counts("olmoe", "topk", 0, 64)[0].max() == 204_013  # 97.7 % of arXiv
    assert min(bits["olmoe", layer] for layer in (0, 7, 15)) > 0.09
    assert max(bits["mistral", layer] for layer in (0, 7, 15)) < 0.03


@pytest.fixture(scope="module")
def gptoss():
    """Return ids and weights (T, L, K) of the 57 published traces, and each token's subject."""
    table = pq.read_table(TRACES)
    ids, weights = (
        table[name].combine_chunks().flatten().to_numpy().reshape(-1, 24, 4)
        for name in ("experts", "probs")
    )
    return ids, weights, np.array(table["subject"].to_pylist())


@pytest.fixture(scope="module")
def published_use():
    """Return gpt-oss-20b's published mean use of experts (subject, layer, expert), and subjects.

    Of thinking that ended without repetition, over all questions of a subject.
    """
    table = pq.read_table(TRACES.with_name("expert_usage_mmlu_test.parquet"))
    thinks = table.filter(
        (pc.field("phase") == "think") & pc.field("finished") & ~pc.field("repetition")
    )
    subjects = sorted(table["category"].unique().to_pylist())
    subject, layer, expert, share = (
        thinks[name].to_numpy() for name in ("category", "layer", "expert", "count_frequency")
    )
    use = np.zeros((len(subjects), 24, 32))
    use[np.searchsorted(subjects, subject.astype(str)), layer, expert] = share
    return use / use.sum(-1, keepdims=True), subjects


@needs_gptoss
def test_traces_have_the_expert_use_that_was_published_for_their_subject(gptoss, published_use):
    """One question a subject against the mean of some 250: found .976 overall, .68 within."""
    ids, weights, subject = gptoss
    use, subjects = published_use
    assert subjects == sorted(set(subject))
    ours = np.array(
        [[load(ids[subject == name, n], 32).share_E / 4 for n in range(24)] for name in subjects]
    )
    over_all = [np.corrcoef(use[:, n].mean(0), ours[:, n].mean(0))[0, 1] for n in range(24)]
    assert min(over_all) > 0.9
    assert np.mean(over_all) > 0.97
    apart = [(part - part.mean(0)).reshape(len(subjects), -1) for part in (use, ours)]
    likeness = np.corrcoef(*apart)[: len(subjects), len(subjects) :]
    others = likeness[~np.eye(len(subjects), dtype=bool)]
    assert likeness.diagonal().mean() > 0.65
    assert abs(others.mean()) < 0.02
    rank = (likeness >= likeness.diagonal()).sum(0)  # of a trace's own subject among the 57
    assert (rank <= 6).mean() > 0.8
    by_weight = load(ids[:, 5], 32, weights_TK=weights[:, 5]).weight_share_E
    assert np.corrcoef(by_weight, use[:, 5].mean(0))[0, 1] > 0.9


@needs_gptoss
def test_traces_are_measured_as_plain_loops_measure_them(gptoss):
    ids, _, subject = gptoss
    place = np.unique(subject, return_inverse=True)[1]
    pairs = coactivation(ids[:, 3], 32, document_T=place)
    of_a, of_b = ((ids[:, 3] == expert).any(1) for expert in (7, 19))
    assert pairs.n_tokens_EE[7, 19] == (of_a & of_b).sum()
    crossed = cross_layer(ids[:, 3], ids[:, 4], 32, document_T=place, n_shifts=39)
    later = (ids[:, 4] == 19).any(1)
    assert crossed.n_tokens_EE[7, 19] == (of_a & later).sum()
    assert crossed.information.p == pytest.approx(1 / 40)
    assert crossed.information.value > 10 * crossed.information.null


@needs_gptoss
def test_one_question_a_subject_cannot_tell_subjects_apart(gptoss):
    """57 documents of 57 domains: a permutation changes nothing, and p says so."""
    ids, _, subject = gptoss
    found = specialisation(ids[:, 12], subject, subject, 32, n_permutations=39, n_draws=39)
    assert found.information.p == 1
    assert found.information.value == pytest.approx(0, abs=1e-9)
