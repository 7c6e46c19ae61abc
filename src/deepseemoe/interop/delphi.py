"""Delphi's cache of latents, from the feature shards of a run: its explainers and scorers read it.

    latents/{hookpoint}/{first}_{last}.safetensors   both ends in
        locations (n, 3)    row, position, feature - first; uint16, or uint32 where that is too few
        activations (n,)    float16
        tokens (rows, ctx)  in every file, as Delphi's own, since it may open any of them first
    latents/{hookpoint}/config.json                  what its LatentDataset asks of a cache
    explanations/{hookpoint}_latent{feature}.txt     a JSON string, where the run labelled features
    tokenizer/                                       that of the run

A row is a packed sequence. Entries are in the order of the text, features rising within a token,
as `torch.nonzero` gives them there. Layout by delphi/latents/cache.py (commit 078745e) and
loader.py (commit 30158d9) of EleutherAI/delphi.

Shards are read twice, a run of tokens at a time: first features are counted, so that files can be
laid out, then entries go to their place. Memory does not grow with the text or the dictionary.

T tokens, F features.
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deepseemoe.features.store import FeatureShard
from deepseemoe.interop.descriptions import descriptions
from deepseemoe.interop.run_folder import RunFolder
from deepseemoe.interop.shard_blocks import Block, blocks
from deepseemoe.interop.tensor_file import TensorFile
from deepseemoe.runtime.files import write_json, write_text
from deepseemoe.runtime.progress import Progress

LEAST_SPLITS = 5
"""As Delphi's CacheConfig.n_splits."""
ENTRIES_PER_SPLIT = 1 << 26
"""Delphi loads a split whole, its locations as int64: 1.6 GB at this size."""
SMALLEST, LARGEST = 6e-8, 65504.0
"""Of float16; what fires stays above 0."""

README = """# Latents of {name} {window}, for Delphi

Written by DeepSeeMoE from run `{run}`: {n_tokens} test tokens in {n_rows} sequences of {ctx},
{n_entries} activations of {d_dict} features.

```python
from delphi.config import ConstructorConfig, SamplerConfig
from delphi.latents import LatentDataset
from transformers import AutoTokenizer

dataset = LatentDataset(
    raw_dir="latents",
    sampler_cfg=SamplerConfig(),
    constructor_cfg=ConstructorConfig(),
    tokenizer=AutoTokenizer.from_pretrained("tokenizer"),
    modules=["{hookpoint}"],
)
```

- `{hookpoint}` is no module of the model: a dictionary may span layers. Delphi explains and scores
  features from this cache alone; what hooks the model there does not work.
- Activations are float16, cut at 65504; {n_cut} were.
- **Tokens are the run's test text as it is.** Nothing is redacted here.
- explanations/: {n_explanations} descriptions, as Delphi's own explainer stores them. Scores are
  not written: Delphi keeps the verdict on every single example, the run's tables hold counts.
"""


class Counted(NamedTuple):
    """What the first pass finds."""

    entries_F: npt.NDArray[np.int64]
    """Activations of each feature."""
    highest_token: int


class Layout(NamedTuple):
    """Which features stand in which file, and how many entries each has."""

    edges: npt.NDArray[np.int64]
    """(splits + 1,) first feature of each file, and d_dict"""
    n_entries: npt.NDArray[np.int64]
    """(splits,)"""


def write(run: RunFolder, folder: Path, *, model: str | None, n_layers: int | None = None) -> None:
    """Write the latents of one dictionary and window into an empty folder.

    `model` names a model or a folder with a tokenizer; layers are not asked for. Raises ValueError
    where the run has no feature shards, or they do not fit together.
    """
    shards = [FeatureShard.open(path) for path in run.shards()]
    ctx = run.config["corpus"]["sequence_length"]
    n_rows = sum(_rows(shard, ctx) for shard in shards)
    hookpoint = f"{run.name}.{run.window}"
    latents = folder / "latents" / hookpoint
    latents.mkdir(parents=True)
    counted = count(shards, run.d_dict)
    layout = layout_of(counted.entries_F)
    with ExitStack() as stack:
        files = _open(latents, layout, n_rows=n_rows, ctx=ctx, highest_token=counted.highest_token)
        for file in files:
            stack.enter_context(file)
        n_cut = _fill(files, shards, layout, ctx)
    write_json(latents / "config.json", _config(run, model, layout, ctx=ctx, n_rows=n_rows))
    n_explanations = _write_explanations(run, folder / "explanations", hookpoint)
    tokenizer = run.root / "corpus" / "tokenizer"
    if tokenizer.is_dir():
        own_files = shutil.ignore_patterns(".*")  # not what Snakemake keeps there
        shutil.copytree(tokenizer, folder / "tokenizer", ignore=own_files)
    text = README.format(
        name=run.name, window=run.window, run=run.run, n_tokens=n_rows * ctx, n_rows=n_rows,
        ctx=ctx, n_entries=int(layout.n_entries.sum()), d_dict=run.d_dict, hookpoint=hookpoint,
        n_cut=n_cut, n_explanations=n_explanations,
    )  # fmt: skip
    write_text(folder / "README.md", text)


def count(shards: Sequence[FeatureShard], d_dict: int) -> Counted:
    """Return what the shards hold; raise ValueError where they have another number of features."""
    entries_F, highest = np.zeros(d_dict, np.int64), 0
    progress = Progress("counting activations", sum(shard.n_tokens for shard in shards))
    for shard in shards:
        if shard.d_dict != d_dict:
            raise ValueError(
                f"{shard.label}: {shard.d_dict} features, the dictionary has {d_dict}; run "
                "`snakemake encode_features` again"
            )
        for block in blocks(shard):
            entries_F += np.bincount(block.features, minlength=d_dict)
            highest = max(highest, int(block.token_ids.max(initial=0)))
            progress.advance(block.n_tokens)
    return Counted(entries_F, highest)


def layout_of(entries_F: npt.NDArray[np.int64]) -> Layout:
    """Return equal runs of features, cut as Delphi's `generate_split_indices` cuts them."""
    n_splits = max(LEAST_SPLITS, -(-int(entries_F.sum()) // ENTRIES_PER_SPLIT))
    edges = np.linspace(0, len(entries_F), min(n_splits, len(entries_F)) + 1).astype(np.int64)
    return Layout(edges, np.add.reduceat(entries_F, edges[:-1]))


def _open(
    folder: Path, layout: Layout, *, n_rows: int, ctx: int, highest_token: int
) -> list[TensorFile]:
    """Return a new file for each run of features."""
    tokens = narrowest(highest_token), (n_rows, ctx)
    files = []
    for first, stop, n in zip(layout.edges, layout.edges[1:], layout.n_entries, strict=False):
        shapes = {
            "locations": (narrowest(max(n_rows, ctx, stop - first) - 1), (int(n), 3)),
            "activations": (np.dtype(np.float16), (int(n),)),
            "tokens": tokens,
        }
        files.append(TensorFile(folder / f"{first}_{stop - 1}.safetensors", shapes))
    return files


def narrowest(highest: int) -> np.dtype[Any]:
    """Return the type of integers up to `highest`: uint16, or uint32 where that is too few."""
    return np.dtype(np.uint16 if highest < 1 << 16 else np.uint32)


def _fill(
    files: Sequence[TensorFile], shards: Sequence[FeatureShard], layout: Layout, ctx: int
) -> int:
    """Put every entry into its file, and return how many activations float16 had to cut."""
    n_cut = first_row = 0
    progress = Progress("writing latents", sum(shard.n_tokens for shard in shards))
    for shard in shards:
        for block in blocks(shard):
            n_cut += int((block.values > LARGEST).sum())
            _add(files, block, layout.edges, ctx=ctx, first_row=first_row)
            progress.advance(block.n_tokens)
        first_row += shard.n_tokens // ctx
    return n_cut


def _add(
    files: Sequence[TensorFile],
    block: Block,
    edges: npt.NDArray[np.int64],
    *,
    ctx: int,
    first_row: int,
) -> None:
    """Put the entries of a block into their files, and its tokens into all of them."""
    split_n = np.searchsorted(edges, block.features, side="right") - 1
    order = np.argsort(split_n, kind="stable")  # the order of the text inside of each file
    cuts = np.searchsorted(split_n[order], np.arange(len(files) + 1))
    values_n = np.clip(block.values, SMALLEST, LARGEST)
    for number, file in enumerate(files):
        own = order[cuts[number] : cuts[number + 1]]
        rows, positions = np.divmod(block.tokens[own], ctx)
        features = block.features[own].astype(np.int64) - edges[number]
        file.append("locations", np.stack([first_row + rows, positions, features], axis=1))
        file.append("activations", values_n[own])
        file.append("tokens", block.token_ids)


def _rows(shard: FeatureShard, ctx: int) -> int:
    """Return how many sequences a shard has; raise ValueError where it is not made of whole ones.

    Attention never crosses sequences, so `position` is 0 at the first token of each.
    """
    if shard.n_tokens % ctx or shard.read("position")[::ctx].any():
        raise ValueError(
            f"{shard.label}: not made of sequences of {ctx} tokens, as config.yaml of its run says "
            "(corpus.sequence_length); run `snakemake encode_features` again"
        )
    return shard.n_tokens // ctx


def _config(
    run: RunFolder, model: str | None, layout: Layout, *, ctx: int, n_rows: int
) -> dict[str, Any]:
    """Return the fields of Delphi's CacheConfig, and `model_name`."""
    corpus = run.config["corpus"]
    return {
        "dataset_repo": corpus["dataset"] if corpus["source"] == "dclm" else corpus["source"],
        "dataset_split": "test",
        "dataset_name": "",
        "dataset_column": corpus["text_key"],
        "dataset_row": corpus["text_key"],
        "batch_size": 1,
        "ctx_len": ctx,
        "cache_ctx_len": ctx,
        "n_tokens": n_rows * ctx,
        "n_splits": len(layout.n_entries),
        "model_name": run.model(model),
        "hookpoint": {
            "reads": run.described["reads"],
            "layers": list(run.window.layers),
            "kind": run.described["kind"],
        },
        "exported_by": "deepseemoe",
    }


def _write_explanations(run: RunFolder, folder: Path, hookpoint: str) -> int:
    """Write the run's descriptions, where it has any, and return how many."""
    folder.mkdir()
    found = 0
    for described in descriptions(run):
        path = folder / f"{hookpoint}_latent{described.feature}.txt"
        path.write_text(json.dumps(described.label, ensure_ascii=False), encoding="utf-8")
        found += 1
    return found
