"""A process that asks many questions within a budget, to be killed: folder, address, outcome file.

The outcome is written when all is done: what became of each item, and the bill.
"""

import asyncio
import json
import sys
from pathlib import Path

from asking_world import describe, detect, make_config, outcome

from deepseemoe.labels.asking import retries
from deepseemoe.labels.asking.answers import Answers
from deepseemoe.labels.asking.bill import Bill, Prices
from deepseemoe.labels.asking.budget import Budget
from deepseemoe.labels.asking.client import Client
from deepseemoe.labels.asking.ordered import in_order
from deepseemoe.labels.asking.question import Usage

N_ITEMS = 60
PRICES = {"usd_per_million_in": 1.0, "usd_per_million_out": 3.0, "budget_usd": 0.0024}


async def work(item, asker):
    label = await outcome(asker, describe(f"dog{item}"))
    judged = [outcome(asker, detect(f"{word}{item}")) for word in ("cat", "cow")]
    return [label, *await asyncio.gather(*judged)]


async def run(folder, url):
    config = make_config(url, concurrency=4, max_retries=9, **PRICES)
    bill, budget = Bill(Prices.of(config)), Budget(config.budget_usd, None, Prices.of(config))
    with Answers(folder, "features") as answers:
        async with Client(config, answers, bill=bill) as client:
            found = await in_order(
                N_ITEMS, work, client=client, estimate=Usage(60, 60, 12), budget=budget, width=12
            )
    return {"found": found, "bill": bill.plain()}


if __name__ == "__main__":
    retries.FIRST = 0.001
    ended = asyncio.run(run(Path(sys.argv[1]), sys.argv[2]))
    Path(sys.argv[3]).write_text(json.dumps(ended))
