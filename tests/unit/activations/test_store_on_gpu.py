"""Stores of values on a GPU, or on a GPU and the host, are those of the same values on the host."""

import numpy as np
import pytest
import torch
from store_bytes import files

from deepseemoe.activations.layout import BFLOAT16, ArraySpec
from deepseemoe.activations.store import ActivationStore
from deepseemoe.activations.writer import open_writer
from deepseemoe.config.activations import ActivationsConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

N_TOKENS, WIDTH, BATCH = 20_000, 2880, 1000
CONFIG = ActivationsConfig(window_tokens=4096, chunk_tokens=256)
SITES = ("resid_post/L00", "moe_in/L01")
ARRAYS = (
    *(ArraySpec(site, "uint16", WIDTH, BFLOAT16) for site in SITES),
    ArraySpec("expert_ids/L01", "uint16", 4),
    ArraySpec("expert_weights/L01", "float16", 4),
)


@pytest.fixture(scope="module")
def rows():
    draw = torch.Generator().manual_seed(0)
    place = np.arange(N_TOKENS, dtype=np.uint32)
    return {
        **{site: torch.randn(N_TOKENS, WIDTH, generator=draw) + 0.5 for site in SITES},
        "expert_ids/L01": torch.randint(0, 300, (N_TOKENS, 4), generator=draw),
        "expert_weights/L01": torch.rand(N_TOKENS, 4, generator=draw),
        "token_id": place * 7,
        "doc_id": place // 100,
        "position": place % 100,
    }


def write(path, rows, on_gpu):
    """Write rows, those of `on_gpu` from a GPU, which the store must outlive."""
    plan = {"n_tokens": N_TOKENS, "config": CONFIG, "seed": 0, "split": "train", "shard": 0}
    with open_writer(path, ARRAYS, manifest={}, **plan) as writer:
        for start in range(0, N_TOKENS, BATCH):
            part = {name: values[start : start + BATCH] for name, values in rows.items()}
            moved = {name: part[name].to("cuda", non_blocking=True) for name in on_gpu}
            writer.append({**part, **moved})
            del moved  # their memory is free for the next batch, as a model's is
    return ActivationStore(path)


@pytest.mark.parametrize("on_gpu", [tuple(spec.name for spec in ARRAYS), SITES[:1]])
def test_the_store_is_that_of_the_host(tmp_path, rows, on_gpu):
    host, gpu = write(tmp_path / "host", rows, ()), write(tmp_path / "gpu", rows, on_gpu)
    shards = {name: data for name, data in files(host.path).items() if "/c/" in name}
    found = files(gpu.path)
    for name, data in shards.items():
        assert name.startswith("statistics/") or found[name] == data, name
    for site in SITES:
        ours, theirs = gpu.statistics(site), host.statistics(site)
        assert ours.n_valid == theirs.n_valid
        np.testing.assert_allclose(ours.mean_D, theirs.mean_D, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ours.variance_D, theirs.variance_D, rtol=1e-5)


def test_values_that_are_not_finite_are_found_on_the_gpu(tmp_path, rows):
    spoilt = {**rows, SITES[1]: rows[SITES[1]].clone()}
    spoilt[SITES[1]][9000, 7] = torch.nan
    with pytest.raises(ValueError, match="moe_in/L01 is infinite or NaN at 1 of .* place 9000"):
        write(tmp_path / "s", spoilt, SITES)
