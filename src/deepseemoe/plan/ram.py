"""The RAM that each rule takes, for whoever reserves it before a job starts (SLURM).

`uses` says what devices hold, from the model's outline; this says what the processes of a rule hold
in RAM, from plain numbers, within milliseconds. It is meant to be enough, not close: a reservation
that is too small ends a job. Where something lies on a GPU, RAM still holds it once on its way
there (dictionaries, checkpoints) or in part (models, which are read file by file).
"""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

from deepseemoe.config import RunConfig
from deepseemoe.config.dictionary import DictionaryConfig
from deepseemoe.names import Window
from deepseemoe.plan.sizes import Sizes, sizes_of

MB = 10**6
BASE_MB = 1500
"""A process with torch and transformers and no data; measured: 0.7 to 1.5 GB."""

CUDA_MB = 3000
"""What CUDA's libraries and context add to that."""

ON_ITS_WAY_MB = 12_000
"""Of a model that goes to a GPU, what RAM holds at once at most: two files of weights."""

UNKNOWN = Sizes(24, 2880, 32, 4, 201_088, 820_000_000)
"""Taken for a model whose config.json is not here yet: gpt-oss-20b's, about."""

FLOAT = 4
TABLE_BYTES, LAYER_TABLES, COLUMNS = 4 << 30, 24, 55
"""`map_reads`: at most this for tables of a run of layers; tables of a layer; columns of a row."""

REGRESSION_BYTES = 6 << 30
"""`map_reads`: its sample of tokens at most; measured (docs/performance.md)."""

EXAMPLE_BYTES = 100
"""`collect_examples`: for an activation of the test split; measured: 98 to 109."""


class _Parts(NamedTuple):
    """The parts that rules' memory is made of, in bytes."""

    run: RunConfig
    sizes: Sizes

    def model(self, stage: str, *, whole: bool = False) -> float:
        """Return what a model takes: all of it on CPUs, what is on its way on GPUs."""
        needed = self.run.activations.routing == "needed" and not whole
        n_bytes = self.weights(self.run.n_layers_read() if needed else None)
        on_gpu = self.run.devices.on_gpu(stage)
        return min(n_bytes, ON_ITS_WAY_MB * MB) if on_gpu else n_bytes

    def weights(self, n_layers: int | None) -> float:
        """Return the bytes of a model's first layers, or of all of it."""
        width = 2 if self.run.model.dtype == "bfloat16" else FLOAT
        return width * self.sizes.n_parameters(n_layers)

    def dictionaries(self) -> list[float]:
        """Return the bytes of each dictionary's weights."""
        pairs = ((e, w) for e in self.run.dictionaries.values() for w in self.run.windows)
        return [FLOAT * _n_parameters(entry, window, self.sizes.d_model) for entry, window in pairs]

    def largest(self) -> float:
        """Return the bytes of the largest dictionary's weights."""
        return max(self.dictionaries())

    def d_dict(self) -> int:
        """Return the features of the largest dictionary."""
        return max(entry.d_dict for entry in self.run.dictionaries.values())

    def n_layers(self) -> int:
        """Return the layers of the longest window."""
        return max(len(window.layers) for window in self.run.windows)

    def row(self) -> float:
        """Return the bytes of a token in a store."""
        chosen = self.run.n_layers_read() * self.sizes.top_k * 4
        logits = self.run.activations.router_logits * self.run.n_layers_read()
        sites = 2 * len(self.run.sites()) * self.sizes.d_model
        return sites + chosen + FLOAT * logits * self.sizes.n_experts + 32

    def stores(self) -> float:
        """Return what writing a store holds: windows of all arrays, and batches on their way."""
        batch = self.run.activations.batch_sequences * self.run.corpus.sequence_length
        return (3 * self.run.activations.window_tokens + 4 * batch) * self.row()

    def forward(self, stage: str) -> float:
        """Return what a forward pass takes on CPUs: scores of attention, or experts' rows."""
        if self.run.devices.on_gpu(stage):
            return 0.0
        length = self.run.corpus.sequence_length
        n_tokens = self.run.activations.batch_sequences * length
        scores = 3 * FLOAT * n_tokens * length * max(self.sizes.d_model // 64, 4)
        return scores + 12 * FLOAT * n_tokens * self.sizes.top_k * self.sizes.d_model

    def logits(self, stage: str) -> float:
        """Return what sets of logits and their softmax take on CPUs."""
        if self.run.devices.on_gpu(stage):
            return 0.0
        n_tokens = 8 * self.run.corpus.sequence_length + 4096
        return 4 * FLOAT * n_tokens * self.sizes.vocab_size

    def training(self, weights: list[float]) -> float:
        """Return what training dictionaries holds: a checkpoint on its way, and all on CPUs."""
        n_processes = max(self.run.devices.n_gpus("dictionary"), self.run.devices.processes)
        begun = n_processes * max(weights)
        batch = max(entry.batch_tokens for entry in self.run.dictionaries.values())
        step = FLOAT * batch * (8 * self.n_layers() * self.sizes.d_model + self.d_dict())
        held = 0 if self.run.devices.on_gpu("dictionary") else 4 * sum(weights) + 2 * step
        return held + begun + 3 * sum(weights) + step

    def pool(self) -> float:
        """Return what live training holds: its pool on CPUs, and the text."""
        rows = self.run.batches.buffer_tokens * 2 * len(self.run.sites()) * self.sizes.d_model
        return 0.0 if self.run.devices.on_gpu("dictionary") else rows

    def active(self) -> float:
        """Return how many activations the test split has of one dictionary."""
        k = max(entry.k for entry in self.run.dictionaries.values())
        return k * self.run.corpus.n_tokens.test

    def pairs(self) -> float:
        """Return how many pairs of a feature and an expert one layer has."""
        return self.d_dict() * self.sizes.n_experts

    def routing(self) -> float:
        """Return what the routing of the test split takes, of all layers that are stored."""
        return 12 * self.run.corpus.n_tokens.test * self.sizes.top_k * self.run.n_layers_read()

    def vocabulary(self) -> float:
        """Return what counts of token types at experts take, of all layers."""
        return 24 * self.sizes.vocab_size * self.sizes.n_experts * self.run.n_layers_read()

    def maps(self) -> float:
        """Return what counts of pairs take."""
        layer = LAYER_TABLES * 8 * self.pairs()
        return max(min(TABLE_BYTES, layer * self.n_layers()), layer) + COLUMNS * 8 * self.pairs()

    def probes(self) -> float:
        """Return what probes hold: activations of a window twice, and their inputs."""
        n_tokens = min(self.run.prediction.n_tokens, self.run.corpus.n_tokens.test)
        return 4 * FLOAT * n_tokens * self.n_layers() * self.sizes.d_model


def _n_parameters(entry: DictionaryConfig, window: Window, d_model: int) -> int:
    """Return the parameters of a dictionary: its encoder reads a window or a layer of it."""
    n_layers = len(window.layers)
    n_read = n_layers if entry.kind == "crosscoder" else 1
    n_written = n_layers * (2 if entry.reconstruct_input else 1)
    skips = entry.skip * n_layers * d_model**2
    return entry.d_dict * d_model * (n_read + n_written) + skips


_RULES: dict[str, Callable[[_Parts], float]] = {
    "pack_corpus": lambda p: 64 * p.run.corpus.shard_tokens + 3 * sum(_tokens(p.run)),
    "train_model": lambda p: 24 * p.sizes.n_parameters() + p.forward("model"),
    "cache_activations": lambda p: p.model("activations") + p.stores() + p.forward("activations"),
    "train_dictionary": lambda p: p.training([p.largest()]),
    "train_together": lambda p: p.training(p.dictionaries()),
    "train_live": lambda p: (
        p.model("activations") + p.forward("activations") + p.training(p.dictionaries()) + p.pool()
    ),
    "import_dictionary": lambda p: 4 * p.largest(),
    "evaluate_dictionary": lambda p: (
        p.model("evaluation", whole=True)
        + 2 * p.largest()
        + p.forward("evaluation")
        + p.logits("evaluation")
    ),
    "encode_features": lambda p: 2 * p.largest() + 24 * p.active() / _n_test_shards(p.run),
    "collect_examples": lambda p: EXAMPLE_BYTES * p.active() + p.largest(),
    "measure_effects": lambda p: p.model("experts") + 2 * p.largest() + p.forward("experts"),
    "map_writes": lambda p: p.model("experts") + 2 * p.largest() + p.forward("experts"),
    "map_reads": lambda p: (
        p.maps() + p.routing() + min(24 * p.active(), REGRESSION_BYTES) + p.largest()
    ),
    "predict_routing": lambda p: 2 * p.largest() + p.probes() + 24 * p.active() + p.routing(),
    "label_features": lambda p: 24 * p.active() + 20_000 * p.d_dict() + 64 * p.pairs(),
    "label_experts": lambda p: (
        24 * p.active() + COLUMNS * 8 * p.pairs() + p.routing() + p.vocabulary() + p.largest()
    ),
    "tabulate_routing": lambda p: p.routing() + p.vocabulary(),
    "measure_specialisation": lambda p: p.routing() + p.vocabulary(),
    "trace_paths": lambda p: p.routing() + p.vocabulary(),
    "compare_centroids": lambda p: p.model("activations") + p.routing(),
    "measure_saturation": lambda p: p.model("activations", whole=True) + p.routing(),
    "draw_figures": lambda p: 64 * p.n_layers() * p.pairs(),
    "write_summary": lambda p: 64 * p.n_layers() * p.pairs(),
    "randomise_model": lambda p: p.weights(None),
    "cut_ties": lambda p: p.maps() + p.routing() + min(24 * p.active(), REGRESSION_BYTES),
    "compare_runs": lambda p: 8 * 8 * p.n_layers() * p.pairs(),
}
_RULES |= dict.fromkeys(("cache_layers", "cache_random_model"), _RULES["cache_activations"])
_RULES |= dict.fromkeys(("train_arm", "measure_stability"), _RULES["train_dictionary"])
_RULES["evaluate_arms"] = _RULES["evaluate_dictionary"]


class Ram:
    """The RAM of each rule of a run, in MB; what it takes to know that is read at first use."""

    def __init__(self, run: RunConfig) -> None:
        self._run = run
        self._found: dict[str, int] = {}

    @cached_property
    def _parts(self) -> _Parts:
        return _Parts(self._run, sizes_of(self._run) or UNKNOWN)

    def of(self, rule: str) -> int:
        """Return what a job of a rule takes, a quarter more than its parts; 0 for other rules."""
        if rule not in self._found:  # a rule may have thousands of jobs
            self._found[rule] = self._mb(rule) if rule in _RULES else 0
        return self._found[rule]

    def _mb(self, rule: str) -> int:
        on_gpu = any(map(self._run.devices.on_gpu, self._run.devices.stages))
        base = BASE_MB + CUDA_MB * on_gpu
        return int(base + 1.25 * _RULES[rule](self._parts) / MB)


def _tokens(run: RunConfig) -> tuple[int, ...]:
    n_tokens = run.corpus.n_tokens
    return n_tokens.train, n_tokens.select, n_tokens.test


def _n_test_shards(run: RunConfig) -> int:
    return run.corpus.n_shards("test")
