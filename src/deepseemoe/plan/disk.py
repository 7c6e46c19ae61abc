"""What a run leaves on the disk, and what it takes there while it runs."""

from collections import Counter
from collections.abc import Iterator, Sequence

from deepseemoe.activations.layout import BFLOAT16, ArraySpec
from deepseemoe.config import RunConfig
from deepseemoe.config.rounds import N_ON_DISK
from deepseemoe.features.contexts import n_contexts
from deepseemoe.names import SPLITS
from deepseemoe.plan.dictionaries import Shape, trained_of
from deepseemoe.plan.figures import Figure, shown_bytes
from deepseemoe.plan.labels import context_tokens
from deepseemoe.plan.memory import model_bytes
from deepseemoe.plan.network import Network
from deepseemoe.plan.stores import (
    arrays_of,
    corpus_bytes,
    feature_bytes,
    loaded,
    row_bytes,
    shard_sizes,
    split_bytes,
    store_bytes,
)

EXAMPLE_TOKEN_BYTES = 3.7
"""One token of a context in examples.parquet; measured."""


def disk_figures(run: RunConfig, network: Network, shapes: Sequence[Shape]) -> tuple[Figure, ...]:
    """Return the bytes of everything large that a run writes, and their sum."""
    made = (*_corpus(run), *_control(run, network), *_stores(run, network))
    parts = (*made, *_dictionaries(run, shapes), *_features(run, shapes))
    total = sum(figure.value for figure in parts)
    a_token = _a_token(run, network)
    return (a_token, *parts, Figure("all", total, "bytes", "of the above, at the most", True))


def _a_token(run: RunConfig, network: Network) -> Figure:
    arrays = arrays_of(run, network)
    how = " + ".join(_terms(arrays, network, len(loaded(run, network).moe_layers)))
    return Figure("a token, stored", row_bytes(arrays), "bytes", how)


def _terms(arrays: Sequence[ArraySpec], network: Network, n_routed: int) -> Iterator[str]:
    """Yield how the bytes of a token come about."""
    n_sites = sum(spec.view_dtype == BFLOAT16 for spec in arrays)
    ids = next((s.row_bytes for s in arrays if s.name.startswith("expert_ids")), 0)
    weights = next((s.row_bytes for s in arrays if s.name.startswith("expert_weights")), 0)
    logits = next((s.row_bytes for s in arrays if s.name.startswith("router_logits")), 0)
    yield f"{n_sites} sites × {network.d_model:,} × 2 B"
    parts = [f"{ids} ids", f"{weights} weights"] + [f"{logits} logits"] * bool(logits)
    yield f"{n_routed} routed layers × ({' + '.join(parts)}) B"
    yield f"{sum(spec.row_bytes for spec in arrays if '/' not in spec.name)} B of the token"


def _corpus(run: RunConfig) -> Iterator[Figure]:
    n_tokens = sum(getattr(run.corpus.n_tokens, split) for split in SPLITS)
    how = f"{n_tokens:,} tokens × 1.5 B, compressed"
    yield Figure("corpus", corpus_bytes(n_tokens), "bytes", how, True)


def _control(run: RunConfig, network: Network) -> Iterator[Figure]:
    if run.model.random_weights:
        n_bytes = sum(model_bytes(run.model, network))
        how = f"drawn in {run.model.dtype}, and read by every stage"
        yield Figure("random model", n_bytes, "bytes", how)


def _stores(run: RunConfig, network: Network) -> Iterator[Figure]:
    arrays = arrays_of(run, network)
    for split in SPLITS:
        n_bytes, n_shards = split_bytes(run, arrays, split), len(shard_sizes(run, split))
        n_tokens = getattr(run.corpus.n_tokens, split)
        how = f"{n_tokens:,} tokens × {row_bytes(arrays):,} B and checksums, shards {n_shards}"
        if split == "train" and run.batches.source == "live":
            how = f"source: live keeps none; cached it would be {shown_bytes(n_bytes)}"
            n_bytes = 0
        if split == "train" and run.batches.rules == "rounds":
            n_bytes, how = _rounds(run, arrays)
        yield Figure(f"activations {split}", n_bytes, "bytes", how)


def _rounds(run: RunConfig, arrays: Sequence[ArraySpec]) -> tuple[int, str]:
    """Return the bound on the stores of the train split, and how it comes about."""
    sizes, rounds = shard_sizes(run, "train"), run.rounds()
    in_first = Counter(sizes[shard] for shard in rounds[0].shards)
    largest = sum(n * store_bytes(arrays, size, run.activations) for size, n in in_first.items())
    n_there = min(len(rounds), N_ON_DISK)
    whole = shown_bytes(split_bytes(run, arrays, "train"))
    how = (
        f"at most {n_there} of {len(rounds)} rounds of {len(rounds[0].shards)} shards at a time, "
        f"{shown_bytes(largest)} each; cached whole it would be {whole}"
    )
    return n_there * largest, how


def _dictionaries(run: RunConfig, shapes: Sequence[Shape]) -> Iterator[Figure]:
    n_bytes = sum(shape.file_bytes for shape in shapes)
    yield Figure("dictionaries", n_bytes, "bytes", f"weights.safetensors of {len(shapes)}")
    sizes = sorted((shape.checkpoint_bytes for shape in trained_of(shapes)), reverse=True)
    if not sizes:
        return
    many = run.batches.rules != "cache"  # at worst all are trained at once
    at_once = sizes if many else sizes[:2]
    how = f"of {'all' if many else 'two jobs'}, and one more while it is replaced; not kept"
    left = 0
    if run.batches.rules == "rounds":
        left, how = N_ON_DISK * sum(sizes), f"{how}; and what {N_ON_DISK} rounds leave"
    yield Figure("checkpoints", left + sum(at_once) + sizes[0], "bytes", how)


def _features(run: RunConfig, shapes: Sequence[Shape]) -> Iterator[Figure]:
    n_tokens = run.corpus.n_tokens.test
    sparse = sum(feature_bytes(n_tokens, k=s.config.k, d_dict=s.config.d_dict) for s in shapes)
    how = f"{n_tokens:,} test tokens × k activations, compressed, of {len(shapes)}"
    yield Figure("features", sparse, "bytes", how, True)
    config = run.features
    n_features = sum(shape.config.d_dict for shape in shapes)
    n_each = context_tokens(config)
    n_shown = n_contexts(config)
    how = f"{n_features:,} features × {n_shown} contexts × {n_each} tokens, at most"
    n_bytes = n_features * n_shown * n_each * EXAMPLE_TOKEN_BYTES
    yield Figure("examples", n_bytes, "bytes", how, True)
