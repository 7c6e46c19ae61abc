"""Which items a budget admits does not depend on who answers first, and never exceeds it."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.bill import Bill, Prices
from deepseemoe.labels.asking.budget import Budget
from deepseemoe.labels.asking.ordered import in_order
from deepseemoe.labels.asking.question import Stopped, Usage

ONE = Usage(100, 20, 1)


class Asker:
    def __init__(self):
        self.usage = Usage()


class Client:
    def __init__(self):
        self.bill = Bill()

    def asker(self):
        return Asker()


def run(takes, budget, *, width=4, estimate=ONE, seed=0, fails=(), client=None):
    """Return which items were worked on; each takes a random number of turns of the loop."""
    turns, under_way = random.Random(seed), set()

    async def work(item, asker):
        under_way.add(item)
        assert len(under_way) <= width
        for _ in range(turns.randrange(8)):
            await asyncio.sleep(0)
            asker.usage = Usage(takes[item].n_in, 0, 0)
        if item in fails:
            raise Stopped(f"item {item} says stop")
        asker.usage = takes[item]
        under_way.discard(item)
        return item

    async def all_items():
        return await in_order(
            len(takes),
            work,
            client=client or Client(),
            estimate=estimate,
            budget=budget,
            width=width,
        )

    return asyncio.run(all_items())


def test_without_a_budget_all_items_are_done_in_their_places():
    client = Client()
    assert run([ONE] * 20, Budget(), client=client) == list(range(20))
    assert client.bill.stopped is None


def test_a_budget_smaller_than_one_item_admits_none():
    client = Client()
    assert run([ONE] * 5, Budget(tokens=119), client=client) == [None] * 5
    assert client.bill.stopped == "budget"


def test_exactly_what_fits_is_done():
    assert run([ONE] * 9, Budget(tokens=5 * 120)) == [0, 1, 2, 3, 4, *[None] * 4]


USAGES = st.lists(
    st.builds(Usage, st.integers(0, 100), st.integers(0, 20), st.just(1)), max_size=30
)


@settings(max_examples=60, deadline=None)
@given(USAGES, st.integers(0, 3000), st.integers(1, 6), st.integers(), st.integers())
def test_admission_is_the_same_in_whatever_order_answers_come(takes, tokens, width, one, other):
    budget = Budget(tokens=tokens)
    done = run(takes, budget, width=width, seed=one)
    assert done == run(takes, budget, width=width, seed=other)
    n_done = sum(item is not None for item in done)
    assert done == [*range(n_done), *[None] * (len(takes) - n_done)]
    assert sum(takes[n].n_tokens for n in range(n_done)) <= tokens
    if n_done < len(takes):
        spent = sum(one.n_tokens for one in takes[: max(n_done - width + 1, 0)])
        assert spent + (min(n_done, width - 1) + 1) * ONE.n_tokens > tokens


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3000), st.integers(1, 6), st.integers())
def test_items_that_take_more_than_estimated_exceed_by_what_was_under_way(tokens, width, seed):
    takes = [Usage(500, 0, 1)] * 12
    done = run(takes, Budget(tokens=tokens), width=width, seed=seed)
    spent = 500 * sum(item is not None for item in done)
    assert spent <= tokens + width * (500 - ONE.n_tokens)


def test_money_is_counted_by_both_prices():
    budget = Budget(usd=1.0, prices=Prices(2.0, 10.0))
    assert budget.admits(Usage(500_000, 0))
    assert budget.admits(Usage(0, 100_000))
    assert not budget.admits(Usage(500_000, 1))
    with pytest.raises(ValueError, match="prices"):
        Budget(usd=1.0).admits(ONE)


def test_the_shares_of_a_budget_add_up_to_it():
    config = LabelsConfig(
        budget_usd=3.0, budget_tokens=1000, usd_per_million_in=1, usd_per_million_out=2
    )
    shares = [Budget.share_of(config, 4, what) for what in ("features", "experts")]
    assert 4 * sum(one.usd for one in shares) == pytest.approx(3.0)
    assert [one.tokens for one in shares] == [200, 50]
    assert Budget.share_of(LabelsConfig(), 4).admits(Usage(10**12, 0))


@pytest.mark.parametrize("width", [1, 3, 20])
def test_an_error_ends_all_others_and_is_raised_alone(width):
    with pytest.raises(Stopped, match="item 5 says stop"):
        run([ONE] * 12, Budget(), width=width, fails={5})


def test_a_bill_counts_each_answer_once_whoever_asks():
    bills = []
    for is_cached in (False, True):
        bill = Bill(Prices(1.0, 2.0))
        for key in ("a1", "b2", "a1"):
            bill.answered(key, "explain", ONE, cached=is_cached)
        bill.failed("empty")
        bills.append(bill.plain())
    assert bills[0] == bills[1]
    assert bills[0]["calls"] == 2
    assert bills[0]["usd"] == pytest.approx(280e-6)
    assert bills[0]["by_purpose"] == {"explain": {"calls": 2, "tokens_in": 200, "tokens_out": 40}}
    assert bills[0]["failures"] == {"empty": 1}
    assert bills[0]["stopped"] is None
