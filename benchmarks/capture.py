"""Capturing activations to a store, against the bare forward pass of the same model.

`ours` is `cache_activations` of one shard, from its file to the whole store; `floor` runs the same
batches through the same model without a hook. Models end with the last layer that is captured, and
stores go to a RAM disk where there is one. A shard of two windows warms all contestants up.

- tiny: NanoMoE and the sites of the embedded default (moe_in, moe_out, resid_post of layers 0 to 2,
  routing of all 4), sequences of 256 tokens, on `--threads` (1, as the rule; writers have others).
- gpt-oss resid_post, gpt-oss all three: 14 layers of gpt-oss-20b with random weights in bfloat16,
  sequences of 2,048 tokens, window L11-L13: 17 kB of activations a token, and 52 kB with moe_in and
  moe_out (27 GB a store). Only where there is a GPU, and 2 rounds only.

Model FLOP utilisation counts 2 operations for each weight that a token meets (attention, router, K
experts; neither embedding nor head) and 4 for each channel of each key that a query head sees:

    layers * 2 * (2 d H C + 2 d h C + d E + 3 K d f) + 4 H C * (mean keys, summed over layers)

`--only WORD` takes the cases with WORD in their name; `--peak-tflops` is the GPU's (default 989).
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from networks import gpt_oss, tiny
from timing import FLOOR, OURS, Case, compete, main

from deepseemoe.activations.capture import cache_activations
from deepseemoe.config.activations import ActivationsConfig
from deepseemoe.corpus.shards import TokenShard, read_shard, write_shard
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.tokens import TokenBatch

CONFIG = ActivationsConfig()
RAM_DISK = Path("/dev/shm")
VOCABULARY = 4096
WARMUP_TOKENS = 2 * CONFIG.window_tokens


class Setting(NamedTuple):
    """A model, its text, and what is captured of it under the names of cases."""

    model: Callable[[], MoeModel]
    sites: Mapping[str, Sequence[str]]
    n_tokens: int
    sequence_length: int


def sites(hook_points: str, layers: range) -> list[str]:
    """Return the names of some hook points at some layers."""
    return [f"{point}/L{layer:02d}" for layer in layers for point in hook_points.split()]


TINY = Setting(tiny, {"tiny": sites("moe_in moe_out resid_post", range(3))}, 262_144, 256)
WIDE = Setting(
    lambda: gpt_oss(14, "cuda"),
    {
        "gpt-oss resid_post": sites("resid_post", range(11, 14)),
        "gpt-oss all three": sites("moe_in moe_out resid_post", range(11, 14)),
    },
    524_288,
    2048,
)


def cases(rounds: int, *, only: str, peak_tflops: float, threads: int) -> list[Case]:
    """Return all cases that were asked for and that this machine can run."""
    torch.set_num_threads(threads)
    found = []
    for setting, n_rounds in ((TINY, rounds), (WIDE, 2)):
        wanted = {name: names for name, names in setting.sites.items() if only in name}
        if wanted and (setting is TINY or torch.cuda.is_available()):
            found += measured(setting._replace(sites=wanted), n_rounds, peak_tflops)
    return found


def measured(setting: Setting, rounds: int, peak_tflops: float) -> list[Case]:
    """Time a setting; the bare forward pass is shared by its cases."""
    model = setting.model()
    with tempfile.TemporaryDirectory(dir=RAM_DISK if RAM_DISK.is_dir() else None) as folder:
        race(setting, model, Path(folder), WARMUP_TOKENS, 1)
        seconds = race(setting, model, Path(folder), setting.n_tokens, rounds)
    result = [
        Case(case, {OURS: seconds[case], FLOOR: seconds[FLOOR]}, "tok/s", setting.n_tokens)
        for case in setting.sites
    ]
    if model.device.type == "cuda":
        print_utilisation(result, flops(model, setting.sequence_length), peak_tflops)
    return result


def race(
    setting: Setting, model: MoeModel, folder: Path, n_tokens: int, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each capture and of the bare forward pass."""
    store, tokens = folder / "store.zarr", folder / f"{n_tokens}.zarr"
    write_text(tokens, n_tokens, setting.sequence_length)
    contestants: dict[str, Callable[[], object]] = {
        case: partial(capture, model, tokens, store, names) for case, names in setting.sites.items()
    }
    contestants[FLOOR] = partial(run_bare, model, read_shard(tokens))
    remove = partial(shutil.rmtree, store, ignore_errors=True)
    return compete(contestants, rounds=rounds, warmup=0, before=lambda _: remove())


def write_text(path: Path, n_tokens: int, length: int) -> None:
    """Write a shard of random tokens, one document a sequence."""
    shape = (n_tokens // length, length)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, shape)
    documents, positions = np.indices(shape)
    text = TokenShard(*(array.astype(np.uint32) for array in (ids, documents, positions)))
    write_shard(path, text, split="train", shard=0, manifest={})


def capture(model: MoeModel, tokens: Path, store: Path, names: Sequence[str]) -> None:
    """Capture the shard at `tokens`."""
    plan = {"split": "train", "shard": 0, "seed": 0, "manifest": {}}
    cache_activations(CONFIG, model=model, tokens=tokens, store=store, sites=names, **plan)


@torch.inference_mode()
def run_bare(model: MoeModel, text: TokenShard) -> None:
    """Run the model over the batches of the text, and do nothing else."""
    for start in range(0, len(text.token_ids_SN), CONFIG.batch_sequences):
        part = slice(start, start + CONFIG.batch_sequences)
        model.hidden_states(
            TokenBatch.from_arrays(text.token_ids_SN[part], text.positions_SN[part])
        )
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def flops(model: MoeModel, length: int) -> float:
    """Return the operations of a token in sequences of `length`, as the module's formula says."""
    config = model.network.config
    d, width = config.hidden_size, config.num_attention_heads * config.head_dim
    key_width = config.num_key_value_heads * config.head_dim
    experts = 3 * config.num_experts_per_tok * d * config.intermediate_size
    weights = 2 * d * width + 2 * d * key_width + d * config.num_local_experts + experts
    seen = np.arange(1, length + 1)
    keys = sum(
        np.minimum(seen, config.sliding_window if kind == "sliding_attention" else length).mean()
        for kind in config.layer_types
    )
    return config.num_hidden_layers * 2 * weights + 4 * width * float(keys)


def print_utilisation(cases: Sequence[Case], n_flops: float, peak_tflops: float) -> None:
    """Print how much of the peak the bare forward pass and the captures reach."""
    print(f"{n_flops / 1e9:.2f} GFLOP a token; peak {peak_tflops:.0f} TFLOP/s")
    for case in cases:
        for name in (FLOOR, OURS):
            speed = case.value(name)
            share = speed * n_flops / peak_tflops / 1e12
            print(f"{case.case:<24} {name:<8} {speed:10,.0f} tokens/s {share:6.1%} of peak")


if __name__ == "__main__":
    main(cases, __doc__, rounds=9, only="", peak_tflops=989.0, threads=1)
