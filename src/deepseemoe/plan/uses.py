"""What each device holds while each rule runs, from the sizes of models and dictionaries."""

from collections.abc import Iterable, Iterator, Sequence

from deepseemoe.config import RunConfig
from deepseemoe.dictionary.splice_metrics import CHUNK_TOKENS
from deepseemoe.experts.contributions import CHUNK_ENTRIES
from deepseemoe.experts.effects_local import CHUNK_VALUES
from deepseemoe.experts.evidence import LAYER_TABLES, TABLE_BYTES
from deepseemoe.experts.schemas import READS
from deepseemoe.experts.token_batches import BATCH_TOKENS
from deepseemoe.features.encode import BATCH
from deepseemoe.plan.dictionaries import FLOAT, Shape, trained_of
from deepseemoe.plan.memory import (
    DTYPE_BYTES,
    Share,
    Use,
    forward_bytes,
    forward_shares,
    model_bytes,
    model_uses,
    names_of,
    pool_bytes,
)
from deepseemoe.plan.network import Network
from deepseemoe.plan.stores import arrays_of, loaded, row_bytes
from deepseemoe.plan.together import group_bytes, grouped, rows_bytes

N_BUFFERS = 2
"""Windows of all arrays that a store's writer holds."""

EVALUATION_SEQUENCES = 8
"""Sequences that `evaluate_dictionary` splices at once."""


EXAMPLE_BYTES = 100
"""RAM of `collect_examples` for an activation of the test split; measured: 98 to 109."""


def uses_of(run: RunConfig, network: Network, shapes: Sequence[Shape]) -> list[Use]:
    """Return what each device holds for each rule that needs much."""
    found = [*_capture(run, network)]
    if run.model.random_weights:
        drawn = Share("model", sum(model_bytes(run.model, network)))
        found.append(Use("randomise_model", "model", "RAM", (drawn,)))
    if trained := trained_of(shapes):
        found += _training(run, network, trained)
    found += [*_evaluation(run, network, shapes), *_maps(run, network, shapes)]
    return list(_joined([*found, *_features(run, shapes)]))


def _joined(found: Iterable[Use]) -> Iterator[Use]:
    """Yield one use for each rule and device."""
    shares: dict[tuple[str, str, str], tuple[Share, ...]] = {}
    for use in found:
        key = use.rule, use.stage, use.device
        shares[key] = shares.get(key, ()) + use.shares
    return (Use(*key, parts) for key, parts in shares.items())


def _capture(run: RunConfig, network: Network) -> list[Use]:
    """Return what capture holds: windows fill up where their layers compute."""
    n_devices = max(run.devices.n_gpus("activations"), 1)
    windows = N_BUFFERS * run.activations.window_tokens * row_bytes(arrays_of(run, network))
    others = (
        *forward_shares(run, network),
        Share("two windows", windows / n_devices, n_devices > 1),
    )
    return model_uses(run, loaded(run, network), "cache_activations", "activations", others)


def _training(run: RunConfig, network: Network, shapes: Sequence[Shape]) -> Iterator[Use]:
    """Yield what training holds: the largest job from stores, or all dictionaries live."""
    if run.batches.source == "live":
        rule, job = "train_live", shapes
        pool = Share("pool", pool_bytes(run, shapes))
        yield from _live(run, network, (*_trainers(shapes), pool))
    else:
        rules = {"together": "train_together", "rounds": "train_round"}
        rule = rules.get(run.batches.rules, "train_dictionary")
        job = max(grouped(run, d_model=network.d_model), key=group_bytes)
        names = names_of(run, "dictionary")
        for name in names:
            yield Use(rule, "dictionary", name, _trainers(job, read=True, n_devices=len(names)))
    written = max(shape.checkpoint_bytes for shape in job)
    yield Use(rule, "dictionary", "RAM", (Share("a checkpoint", written, True),))
    n_gpus = run.devices.n_gpus("dictionary")
    if n_gpus > 1:  # each process makes the whole before it keeps its rows
        begun = n_gpus * max(shape.weight_bytes for shape in job)
        yield Use(rule, "dictionary", "RAM", (Share(f"the start, in {n_gpus} processes", begun),))


def _trainers(
    shapes: Sequence[Shape], *, read: bool = False, n_devices: int = 1
) -> tuple[Share, ...]:
    """Return what a device holds of dictionaries that one job trains; what they `read`, too."""
    label = shapes[0].label if read and len(shapes) == 1 else f"{len(shapes)} dictionaries"
    held = Share(label, sum(shape.held_bytes for shape in shapes) // n_devices)
    step = Share("a step", max(shape.step_bytes for shape in shapes), True)
    if read and len(shapes) > 1:
        return held, step, Share("a batch of all sites", rows_bytes(shapes), True)
    return held, step


def _live(run: RunConfig, network: Network, own: tuple[Share, ...]) -> Iterator[Use]:
    """Yield the devices of live training: a GPU that both name holds both."""
    n_gpus, on_gpu = run.devices.n_gpus("activations"), run.devices.on_gpu("dictionary")
    sizes = model_bytes(run.model, loaded(run, network), max(n_gpus, 1))
    forward = forward_shares(run, network)
    if not n_gpus:  # the model goes where the dictionaries are
        shares = (Share("model", sizes[0]), *forward, *own)
        yield Use("train_live", "dictionary", names_of(run, "dictionary")[0], shares)
        return
    n_all = run.devices.n_gpus("activations", "dictionary")
    place = _own_place(run) if on_gpu else None
    for number, size in enumerate(sizes):
        shares = (Share("model", size), *forward, *(own if number == place else ()))
        yield Use("train_live", "activations", f"GPU {number + 1} of {n_all}", shares)
    if place is None or place >= n_gpus:
        yield Use("train_live", "dictionary", f"GPU {n_all} of {n_all}" if on_gpu else "RAM", own)


def _own_place(run: RunConfig) -> int:
    """Return which of a live job's GPUs is the dictionaries': one of the model's, or the next."""
    (own,), models = run.devices.pins("dictionary"), run.devices.pins("activations")
    return models.index(own) if own is not None and own in models else len(models)


def _evaluation(run: RunConfig, network: Network, shapes: Sequence[Shape]) -> list[Use]:
    width, length = DTYPE_BYTES[run.model.dtype], run.corpus.sequence_length
    n_tokens = EVALUATION_SEQUENCES * length
    others = (
        Share("dictionary", max(shape.weight_bytes for shape in shapes)),
        Share("3 sets of logits", 3 * n_tokens * network.vocab_size * width),
        Share("softmax", 4 * FLOAT * CHUNK_TOKENS * network.vocab_size, True),
        Share("forward pass", forward_bytes(network, n_tokens, length, width), True),
    )
    return model_uses(run, network, "evaluate_dictionary", "evaluation", others)


def _features(run: RunConfig, shapes: Sequence[Shape]) -> Iterator[Use]:
    most = max(shapes, key=lambda shape: shape.weight_bytes)
    block = 4 * FLOAT * BATCH * most.n_layers * most.d_model
    shares = Share(most.label, most.weight_bytes), Share("a block", block, True)
    yield Use("encode_features", "features", names_of(run, "features")[0], shares)
    n_active = max(shape.config.k for shape in shapes) * run.corpus.n_tokens.test
    examples = Share("the test split's activations, sorted", EXAMPLE_BYTES * n_active, True)
    yield Use("collect_examples", "features", "RAM", (examples,))


def _maps(run: RunConfig, network: Network, shapes: Sequence[Shape]) -> Iterator[Use]:
    """Yield what the maps hold: tables of pairs, and directions and outputs."""
    part = network.first(min(run.n_layers_read(), network.n_layers))
    layer = max(shape.config.d_dict for shape in shapes) * network.n_experts * 8
    n_layers = max(shape.n_layers for shape in shapes)
    tables = max(min(TABLE_BYTES, LAYER_TABLES * layer * n_layers), LAYER_TABLES * layer)
    shares = (
        Share("tables of pairs", tables),
        Share("columns of a layer", len(READS) * layer, True),
        Share("routing", run.corpus.n_tokens.test * n_layers * network.top_k * 3),
    )
    yield Use("map_reads", "reads", "RAM", shares)
    yield from model_uses(run, part, "measure_effects", "experts", _effects(run, part, shapes))
    yield from model_uses(run, part, "map_writes", "experts", _writes(run, part, shapes))


def _effects(run: RunConfig, part: Network, shapes: Sequence[Shape]) -> tuple[Share, ...]:
    width, length = DTYPE_BYTES[run.model.dtype], run.corpus.sequence_length
    d_dict = max(shape.config.d_dict for shape in shapes)
    return (
        Share("directions", FLOAT * d_dict * part.d_model),
        Share("residuals without features", 3 * FLOAT * CHUNK_VALUES, True),
        Share("forward pass", forward_bytes(part, max(BATCH_TOKENS, length), length, width), True),
    )


def _writes(run: RunConfig, part: Network, shapes: Sequence[Shape]) -> tuple[Share, ...]:
    width, length = DTYPE_BYTES[run.model.dtype], run.corpus.sequence_length
    directions = max(s.config.d_dict * s.n_layers * s.d_model for s in shapes)
    n_outputs = (BATCH_TOKENS + CHUNK_ENTRIES) * part.top_k + CHUNK_ENTRIES
    return (
        Share("directions", FLOAT * directions),
        Share("outputs of experts", 2 * FLOAT * n_outputs * part.d_model, True),
        Share("forward pass", forward_bytes(part, BATCH_TOKENS, length, width), True),
    )
