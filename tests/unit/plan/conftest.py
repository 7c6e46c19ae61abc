"""Fixtures of the tests of plans: the default run, and configurations of published models."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deepseemoe.config import RunConfig
from deepseemoe.plan.limits import limits_of
from deepseemoe.plan.network import Network, read_network
from deepseemoe.plan.source import checkpoint_of

PUBLISHED = {
    "gpt-oss-20b": "gpt-oss-20b",
    "deepseek-moe-16b": "deepseek-moe-16b-base",
    "flexolmo-7x7b": "FlexOlmo-7x7B-1T.transformers-defaults",
    "olmoe-1b-7b": "OLMoE-1B-7B-0924",
    "deepseek-v2-lite": "deepseek-v2-lite",
    "mixtral-8x7b": "mixtral-8x7b",
}


@pytest.fixture(scope="session")
def config_file() -> Callable[[str], Path]:
    """Return a function that finds the config.json of a published model, or skips."""
    beside = Path(__file__).parents[4] / "shared" / "data"
    folder = Path(os.environ.get("DEEPSEEMOE_DATA", beside)) / "configs"

    def find(name: str) -> Path:
        path = folder / f"{PUBLISHED[name]}.json"
        if not path.is_file():
            pytest.skip(f"no {path}; DEEPSEEMOE_DATA names the folder of real data")
        return path

    return find


@pytest.fixture(scope="session")
def published(config_file) -> Callable[[str], Network]:
    """Return a function that gives the sizes of a published model, or skips."""
    return lambda name: read_network(checkpoint_of(RunConfig(), config_file(name)))


@pytest.fixture(scope="session")
def tiny_network() -> Network:
    """Return the sizes of the default run's model."""
    return read_network(checkpoint_of(RunConfig()))


@pytest.fixture
def roomy():
    """Return limits that everything fits."""
    return limits_of(RunConfig(), gpu_gib=1000, ram_gib=10_000, disk_gib=1_000_000)
