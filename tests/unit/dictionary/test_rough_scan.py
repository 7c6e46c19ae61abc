"""A rough product that says where to look changes nothing of what is found."""

import pytest
import torch
from dense_reference import jobs_for, random_weights

from deepseemoe.dictionary import scan
from deepseemoe.dictionary.batch_topk import BatchTopK
from deepseemoe.dictionary.gates import PerFeature
from deepseemoe.dictionary.gates import TopK as TopKGate
from deepseemoe.dictionary.jumprelu import JumpReLU
from deepseemoe.dictionary.relu import ReLU
from deepseemoe.dictionary.scan import Scanner
from deepseemoe.dictionary.topk import TopK, shares_of

D_MODEL, D_DICT, N_TOKENS, K = 32, 300, 200, 6
FORMS = {
    "crosscoder": {"kind": "crosscoder", "n_layers": 2},
    "transcoder": {"kind": "transcoder", "n_layers": 3},
    "matryoshka": {"kind": "transcoder", "n_layers": 2, "prefixes": (0.3,)},
}
FLOORS = {
    "high": torch.full((D_DICT,), 1.5),
    "tiny": torch.full((D_DICT,), 1e-6),
    "0": torch.zeros(D_DICT),
    "mixed": torch.linspace(0.0, 3.0, D_DICT),
    "infinite for some": torch.where(torch.arange(D_DICT) % 3 == 0, torch.inf, 1.0),
    "infinite": torch.full((D_DICT,), torch.inf),
}


def example(form="crosscoder", *, seed=0, n_tokens=N_TOKENS):
    settings = FORMS[form]
    parts, weights = random_weights(
        d_model=D_MODEL, d_dict=D_DICT, seed=seed, dtype=torch.float32, **settings
    )
    rng = torch.Generator().manual_seed(seed + 1)
    return parts, weights, torch.randn(n_tokens, settings["n_layers"] * D_MODEL, generator=rng)


def both_ways(monkeypatch, find):
    """Return what `find` finds where bfloat16 is slow, and where it is fast."""
    answers = []
    for is_fast in (False, True):
        monkeypatch.setattr(scan, "_is_rough_fast", lambda inputs, is_fast=is_fast: is_fast)
        answers.append(find())
    return answers


def check(answers):
    """Hold two sets of entries against each other, and return how many there are."""
    plain, rough = answers
    assert torch.equal(rough.tokens, plain.tokens)
    assert torch.equal(rough.features, plain.features)
    torch.testing.assert_close(rough.values, plain.values, rtol=1e-5, atol=1e-6)
    return len(plain.values)


@pytest.fixture
def products(monkeypatch):
    """Return the list of the types of products that are made from now on."""
    made = []
    search = Scanner._search

    def noting(self, weights, jobs, floor_F, dtype=None):
        made.append(dtype or jobs[0].inputs_TR.dtype)
        return search(self, weights, jobs, floor_F, dtype)

    monkeypatch.setattr(Scanner, "_search", noting)
    return made


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", [64, 1024])
@pytest.mark.parametrize("floor", FLOORS)
def test_the_same_entries_are_found(form, block, floor, monkeypatch):
    monkeypatch.setattr(scan, "BLOCK", block)
    parts, weights, x = example(form)
    jobs = jobs_for(parts, x, D_MODEL)
    scanner = Scanner()
    for _ in range(3):  # a guess of one call serves the next
        n_found = check(both_ways(monkeypatch, lambda: scanner.above(weights, jobs, FLOORS[floor])))
    assert (n_found > 0) == (floor != "infinite")


def test_bfloat16_alone_serves_where_it_is_good_enough(monkeypatch, products):
    parts, weights, x = example()
    jobs = jobs_for(parts, x, D_MODEL)
    monkeypatch.setattr(scan, "_is_rough_fast", lambda inputs: True)
    scanner = Scanner()
    for _ in range(3):
        scanner.above(weights, jobs, FLOORS["high"])
    assert products[-1] == torch.bfloat16
    assert products.count(torch.float32) <= 1


@pytest.mark.parametrize("floor", [1e-6, 0.02, 1.0])
@pytest.mark.parametrize("size", [10.0, 1000.0])
def test_cancelling_biases_too_large_for_bfloat16_change_nothing(floor, size, monkeypatch):
    parts, weights, x = example()
    weights.encoders[0][:, 0] += size
    weights.encoder_bias.sub_(size)
    x[:, 0] = 1.0
    jobs, floor_F = jobs_for(parts, x, D_MODEL), torch.full((D_DICT,), floor)
    answers = both_ways(monkeypatch, lambda: Scanner().above(weights, jobs, floor_F))
    assert near(*answers, floor, size) > 0


def near(plain, rough, floor, size):
    """Hold entries against each other but for those that float32 rounds over the floor."""
    slack = 1e-6 * size + 1e-5 * floor
    tables = []
    for entries in (plain, rough):
        places = (entries.tokens * D_DICT + entries.features).tolist()
        tables.append(dict(zip(places, entries.values.tolist(), strict=True)))
    for one, other in (tables, tables[::-1]):
        missing = [value for place, value in one.items() if place not in other]
        assert all(value <= floor + slack for value in missing)
    return len(tables[0])


@pytest.mark.parametrize("bias", [-500.0, -501.9, -1003.0])
def test_a_feature_whose_bias_bfloat16_cannot_hold_is_found_among_others(bias, monkeypatch):
    parts, weights, x = example()
    x[:, 0] = 1.0
    weights.encoders[0][5] = 0.0
    weights.encoders[0][5, 0] = -bias + 1.2  # float32: 1.2 on every token
    weights.encoder_bias[5] = bias
    jobs = jobs_for(parts, x, D_MODEL)
    floor_F = torch.full((D_DICT,), 1.0)
    scanner = Scanner()
    for _ in range(3):  # others tell by now that bfloat16 is good enough
        answers = both_ways(monkeypatch, lambda: scanner.above(weights, jobs, floor_F))
        assert [int((found.features == 5).sum()) for found in answers] == [N_TOKENS] * 2
        assert near(*answers, 1.0, abs(bias)) > 0


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_tokens_that_are_not_finite_are_no_entries_or_the_same(wrong, monkeypatch):
    parts, weights, x = example()
    x[3, 5] = wrong
    jobs = jobs_for(parts, x, D_MODEL)
    for floor in ("high", "0", "infinite for some"):
        answers = both_ways(monkeypatch, lambda: Scanner().above(weights, jobs, FLOORS[floor]))  # noqa: B023
        assert check([of_other_tokens(found) for found in answers]) > 0
        numbers = [found for found in answers if found.values.isnan().any()]
        assert not numbers


def of_other_tokens(found):
    is_other = found.tokens != 3
    return type(found)(*(part[is_other] for part in found))


def test_weights_that_are_not_numbers_are_no_entries(monkeypatch):
    parts, weights, x = example()
    weights.encoders[0][7] = torch.nan
    jobs = jobs_for(parts, x, D_MODEL)
    assert check(both_ways(monkeypatch, lambda: Scanner().above(weights, jobs, FLOORS["high"]))) > 0


def test_no_tokens_have_no_entries(monkeypatch):
    parts, weights, x = example("transcoder")
    jobs = jobs_for(parts, x[:0], D_MODEL)
    for name in ("high", "0"):
        answers = both_ways(monkeypatch, lambda: Scanner().above(weights, jobs, FLOORS[name]))  # noqa: B023
        assert check(answers) == 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["batch_topk", "topk", "jumprelu", "relu"])
def test_every_activation_function_selects_the_same(form, name, monkeypatch):
    parts, weights, _ = example(form)
    weights = weights._replace(thresholds=torch.full((D_DICT,), 0.1))
    made = {
        "batch_topk": lambda: BatchTopK(K),
        "topk": lambda: TopK(shares_of(K, parts)),
        "jumprelu": lambda: JumpReLU(K),
        "relu": ReLU,
    }[name]
    activations = {}

    def find(x):
        is_fast = scan._is_rough_fast(x)
        activation = activations.setdefault(is_fast, made())
        jobs = jobs_for(parts, x, D_MODEL)
        return activation.select(weights, jobs, weights.norm_F(D_MODEL))

    for seed in range(3):
        x = example(form, seed=seed)[2]
        plain, rough = both_ways(monkeypatch, lambda: find(x))  # noqa: B023
        assert check([plain.entries, rough.entries]) > N_TOKENS
        assert rough.threshold == pytest.approx(plain.threshold, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("gate", [PerFeature(torch.linspace(-1.0, 2.0, D_DICT)), TopKGate(K)])
@pytest.mark.parametrize("n_tokens", [1, 3, 200])
def test_gates_let_the_same_through_for_few_tokens_too(gate, n_tokens, monkeypatch):
    parts, weights, x = example("transcoder", n_tokens=n_tokens)
    jobs, norm_F = jobs_for(parts, x, D_MODEL), weights.norm_F(D_MODEL)
    assert check(both_ways(monkeypatch, lambda: gate.entries(weights, jobs, norm_F, parts))) > 0


def test_few_entries_do_not_vouch_for_bfloat16(monkeypatch, products):
    """Alone, a token lost entries just above a low floor, about one in two thousand."""
    parts, weights, x = example()
    floor_F = torch.where(torch.arange(D_DICT) % 100 == 0, 0.02, torch.inf)
    scanner = Scanner()
    for token in range(N_TOKENS):
        jobs = jobs_for(parts, x[token : token + 1], D_MODEL)
        check(both_ways(monkeypatch, lambda: scanner.above(weights, jobs, floor_F)))  # noqa: B023
        assert products[-1] == torch.float32
