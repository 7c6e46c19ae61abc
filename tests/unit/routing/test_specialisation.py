import numpy as np
import pytest
from random_routers import choose, documents, moody

from deepseemoe.routing.divergence import domain_divergences
from deepseemoe.routing.information import mutual_information
from deepseemoe.routing.specialisation import domain_shares, n_arrangements, specialisation
from deepseemoe.routing.vocabulary import vocabulary


def domains_of(rng, document_T, n_domains=3):
    return rng.integers(n_domains, size=document_T.max() + 1)[document_T]


def test_documents_that_are_moody_tell_nothing_of_domains():
    """80 null worlds: p is uniform, corrected bits are 0 on average, intervals hold 0."""
    p, bits, holds, raw = [], [], [], []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        document = documents(rng, 60, 40)
        ids = moody(rng, document, 8, 2)
        found = specialisation(
            ids, domains_of(rng, document), document, 8, n_permutations=99, n_draws=99
        ).information
        p.append(found.p)
        bits.append(found.value)
        raw.append(found.raw)
        holds.append(found.low <= 0 <= found.high)
    assert np.mean(np.array(p) <= 0.1) < 0.19
    assert 0.4 < np.mean(p) < 0.6
    assert abs(np.mean(bits)) < 0.15 * np.mean(raw)
    assert np.mean(holds) > 0.85


def test_a_planted_domain_is_found_with_its_bits():
    rng = np.random.default_rng(0)
    document = documents(rng, 100)
    domain = domains_of(rng, document, 2)
    preference = np.where(np.arange(8) < 4, 1.0, 0.0)[None] * np.where(domain == 0, 3, -3)[:, None]
    ids = choose(rng, document.size, 8, 2, preference)
    found = specialisation(ids, domain, document, 8)
    half = (ids < 4).mean(1)[domain == 0].mean()  # how often domain 0 gets one of its experts
    ideal = 1 + half * np.log2(half) + (1 - half) * np.log2(1 - half)
    assert found.information.value == pytest.approx(ideal, abs=0.05)
    assert found.information.p == pytest.approx(1 / 201)
    assert found.information.low < found.information.value < found.information.high
    assert found.share == pytest.approx(found.information.value, rel=0.02)  # H(domain) is 1 bit


def test_intervals_hold_the_bits_of_many_more_documents():
    """40 worlds of 80 documents against one of 4,000, with moods and planted domains."""

    def world(seed, n_documents):
        rng = np.random.default_rng(seed)
        document = documents(rng, n_documents, 40)
        domain = domains_of(rng, document)
        mood = 0.7 * rng.normal(size=(n_documents, 8))[document]
        liking = 0.5 * np.random.default_rng(99).normal(size=(3, 8))[domain]
        return choose(rng, document.size, 8, 2, mood + liking), domain, document

    few = {"n_permutations": 40, "n_draws": 80}
    truth = specialisation(*world(1000, 4000), 8, n_permutations=20, n_draws=2).information.value
    found = [specialisation(*world(seed, 80), 8, **few).information for seed in range(40)]
    assert np.mean([one.low <= truth <= one.high for one in found]) > 0.8
    assert np.mean([one.value for one in found]) == pytest.approx(truth, rel=0.15)
    assert np.mean([one.raw for one in found]) > 1.08 * truth  # uncorrected bits are too many


def test_information_is_that_of_the_plain_formula():
    rng = np.random.default_rng(1)
    ids, domain = choose(rng, 400, 6, 2), rng.integers(3, size=400)
    joint = np.zeros((3, 6))
    np.add.at(joint, (np.repeat(domain, 2), ids.ravel()), 1)
    p = joint / joint.sum()
    plain = np.nansum(p * np.log2(p / np.outer(p.sum(1), p.sum(0))))
    found = specialisation(ids, domain, np.arange(400), 6, n_permutations=20, n_draws=20)
    assert found.information.raw == pytest.approx(plain)
    assert mutual_information(joint) == pytest.approx(plain)


def test_too_few_documents_have_no_p():
    rng = np.random.default_rng(2)
    document = np.repeat(np.arange(4), 50)
    found = specialisation(choose(rng, 200, 4, 1), document // 2, document, 4).information
    assert found.raw >= 0
    assert np.isnan([found.value, found.null, found.p, found.low]).all()
    assert n_arrangements(np.array([0, 0, 1, 1])) == pytest.approx(6)
    assert n_arrangements(np.arange(3000) % 2) == np.inf


def test_domain_shares_are_means_over_the_domains_tokens():
    rng = np.random.default_rng(3)
    document = documents(rng, 40)
    names = np.array(["code", "prose"])[domains_of(rng, document, 2)]
    ids = choose(rng, document.size, 6, 2)
    found = domain_shares(ids, names, 6, document_T=document)
    assert found.domains == ["code", "prose"]
    assert found.chance == pytest.approx(2 / 6)
    for place, name in enumerate(found.domains):
        here = names == name
        expected = [(ids[here] == expert).any(1).mean() for expert in range(6)]
        overall = [(ids == expert).any(1).mean() for expert in range(6)]
        np.testing.assert_allclose(found.share_CE[place], expected)
        np.testing.assert_allclose(found.lift_CE[place], np.divide(expected, overall))
    assert (found.share_lo_CE < found.share_CE).all()
    assert (found.share_CE < found.share_hi_CE).all()
    without = domain_shares(ids, names, 6)
    np.testing.assert_allclose(without.share_CE, found.share_CE)
    assert np.isnan(without.share_lo_CE).all()


def test_divergence_finds_the_domain_that_differs_and_no_other():
    false = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        document = documents(rng, 90)
        domain = domains_of(rng, document)
        mood = rng.normal(size=(90, 8))[document]
        other = np.where(np.arange(8) == 3, 3.0, 0.0) * (domain == 2)[:, None]
        ids = choose(rng, document.size, 8, 2, mood + other)
        found = domain_divergences(ids, domain, document, 8, n_permutations=59, n_draws=59)
        assert list(zip(found.first, found.second, strict=True)) == [(0, 1), (0, 2), (1, 2)]
        assert found.divergence.p[1:] == pytest.approx([1 / 60] * 2)
        assert (found.divergence.value[1:] > 0.05).all()
        false.append(found.divergence.p[0])
    assert np.mean(np.array(false) <= 0.1) < 0.25
    assert 0.35 < np.mean(false) < 0.65


def test_documents_of_two_domains_and_wrong_lengths_are_refused():
    ids = choose(np.random.default_rng(4), 10, 4, 1)
    with pytest.raises(ValueError, match="has tokens of two domains"):
        specialisation(ids, np.arange(10) % 2, np.zeros(10, int), 4)
    with pytest.raises(ValueError, match="domain_T: expected one for each of 10 tokens"):
        domain_shares(ids, np.zeros(9, int), 4)


def test_a_router_that_cannot_read_has_the_vocabulary_of_shuffled_tokens():
    rng = np.random.default_rng(5)
    token = rng.zipf(1.4, 30_000) % 400
    found = vocabulary(choose(rng, 30_000, 16, 4), token, 16)
    assert found.bits == pytest.approx(found.chance_bits, rel=0.05)
    assert found.top_share == pytest.approx(found.chance_top_share, rel=0.02)
    assert found.chance_top_share > 0.28  # above top_k / E, as a favourite is picked afterwards
    assert (found.occurrences_V >= 10).all()
    assert np.average(found.lift_VE.ravel()) == pytest.approx(1, abs=0.02)


def test_a_router_that_reads_tokens_is_told_from_one_that_predicts_them():
    rng = np.random.default_rng(6)
    token = rng.integers(50, size=20_000)
    following = np.append(token[1:], -1)
    of_type = 6 * rng.random((50, 16))
    reads = choose(rng, token.size, 16, 2, of_type[token])
    predicts = choose(rng, token.size, 16, 2, of_type[following])
    for ids, input_tells, next_tells in ((reads, True, False), (predicts, False, True)):
        for tokens, tells in ((token, input_tells), (following, next_tells)):
            found = vocabulary(ids, tokens, 16)
            assert (found.bits > 5 * found.chance_bits) == tells
            assert (found.top_share > 1.3 * found.chance_top_share) == tells
    found = vocabulary(reads, token, 16)
    type_ = int(found.token_V[7])
    here = token == type_
    expected = [(reads[here] == expert).any(1).mean() for expert in range(16)]
    np.testing.assert_allclose(found.p_VE[7], expected)
    with pytest.raises(ValueError, match="no token occurs 10 times"):
        vocabulary(reads[:9], token[:9], 16)
