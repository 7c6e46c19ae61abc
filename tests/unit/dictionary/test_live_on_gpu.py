"""Live training on a GPU is that of the CPU, and a killed run ends in the same bytes there too."""

import pytest
import torch
from small_moe import small_model
from test_live_training import (
    KilledError,
    files,
    model,  # noqa: F401 (a fixture)
    split,  # noqa: F401 (a fixture)
    train,
)

from deepseemoe.dictionary import trainer as trainer_module

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(scope="module")
def on_gpu():
    network = small_model()
    network.network.to("cuda")
    return network


def test_dictionaries_are_those_of_the_cpu(model, on_gpu, split, tmp_path):  # noqa: F811
    here = train(model, split, tmp_path / "cpu")
    for source, network in (("gpu", on_gpu), ("mixed", model)):
        there = train(network, split, tmp_path / source, device="cuda:0")
        for mine, theirs in zip(here, there, strict=True):
            assert torch.allclose(mine.decoder_FLD, theirs.decoder_FLD, atol=1e-3)


def test_a_killed_run_ends_in_the_same_bytes(on_gpu, split, tmp_path, monkeypatch):  # noqa: F811
    train(on_gpu, split, tmp_path / "whole", device="cuda:0")
    advance = trainer_module.Trainer.advance
    count = iter(range(10**6))

    def dying(self, batch):
        if next(count) == 25:
            raise KilledError
        return advance(self, batch)

    monkeypatch.setattr(trainer_module.Trainer, "advance", dying)
    with pytest.raises(KilledError):
        train(on_gpu, split, tmp_path / "killed", device="cuda:0")
    monkeypatch.setattr(trainer_module.Trainer, "advance", advance)
    train(on_gpu, split, tmp_path / "killed", device="cuda:0")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
