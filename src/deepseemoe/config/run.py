"""The run: its name, its windows of layers, its dictionaries, and one section for each stage."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from deepseemoe.config.activations import ActivationsConfig
from deepseemoe.config.analysis import (
    ExpertsConfig,
    FeaturesConfig,
    PredictionConfig,
    ReportConfig,
    RoutingConfig,
)
from deepseemoe.config.base import Section, WindowField, read_section
from deepseemoe.config.batches import BatchesConfig
from deepseemoe.config.compare import CompareConfig
from deepseemoe.config.corpus import CorpusConfig
from deepseemoe.config.devices import DevicesConfig
from deepseemoe.config.dictionary import DictionaryConfig
from deepseemoe.config.justify import JustifyConfig
from deepseemoe.config.labels import LabelsConfig
from deepseemoe.config.model import ModelConfig
from deepseemoe.config.rounds import Round, rounds_of
from deepseemoe.config.trust import TrustConfig
from deepseemoe.names import Site, Window

PATHVARS = ("results", "logs", "benchmarks", "resources", "reports", "stats", "temp")
"""Folders that Snakemake lets a configuration place; ours are the first three."""
DictionaryName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]


class RunConfig(Section):
    """All of config/config.yaml."""

    name: str = Field(
        "tiny", pattern=r"^[a-z0-9][a-z0-9-]*$", description="The run, and its folder in results/."
    )
    seed: int = Field(0, ge=0, description="Seed of every random choice.")
    windows: tuple[WindowField, ...] = Field(
        (Window(0, 1), Window(1, 2)),
        description="Windows of layers, as L08-L10 (both ends in, from 0); each gets a dictionary.",
    )
    corpus: CorpusConfig = CorpusConfig()
    model: ModelConfig = ModelConfig()
    activations: ActivationsConfig = ActivationsConfig()
    batches: BatchesConfig = BatchesConfig()
    dictionaries: dict[DictionaryName, DictionaryConfig] = Field(
        {
            "crosscoder": DictionaryConfig(learning_rate=3e-3, init_norm=0.7),
            "transcoder": DictionaryConfig(kind="transcoder", learning_rate=3e-3, init_norm=1.0),
        },
        description="Named dictionaries; each is trained on every window.",
    )
    features: FeaturesConfig = FeaturesConfig()
    labels: LabelsConfig = LabelsConfig()
    routing: RoutingConfig = RoutingConfig()
    experts: ExpertsConfig = ExpertsConfig()
    prediction: PredictionConfig = PredictionConfig()
    report: ReportConfig = ReportConfig()
    justify: JustifyConfig = JustifyConfig()
    trust: TrustConfig = TrustConfig()
    compare: CompareConfig = CompareConfig()
    devices: DevicesConfig = DevicesConfig()
    pathvars: dict[str, str] = Field(
        {}, description="Snakemake's own: where results, logs and benchmarks go."
    )

    @field_validator("pathvars")
    @classmethod
    def _are_paths(cls, pathvars: dict[str, str]) -> dict[str, str]:
        for name, path in pathvars.items():
            if name not in PATHVARS:
                near = get_close_matches(name, PATHVARS, n=1)
                told = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{name} is none of {', '.join(PATHVARS)}{told}")
            if not path.strip() or set(path) & {*"{}<>*?[]\0\n"}:
                raise ValueError(
                    f"{name}: {path!r} is no folder; write one, as {name}: /disk/{name}"
                )
        return pathvars

    @model_validator(mode="after")
    def _hangs_together(self) -> "RunConfig":
        problems = [*self._window_problems(), *self._size_problems()]
        if problems:
            raise ValueError("\n  ".join(problems))
        return self

    def _window_problems(self) -> list[str]:
        """Return what is wrong with the windows, as far as the configuration knows the model."""
        named = [str(window) for window in self.windows]
        problems = [f"windows: {name} stands twice" for name in {*named} if named.count(name) > 1]
        problems += [] if named else ["windows: empty; name at least one, as L00-L01"]
        if self.model.source == "hub":
            return problems
        shape = self.model.architecture
        return problems + self.layer_problems(
            n_layers=shape.n_layers,
            moe_layers=range(shape.n_dense_layers, shape.n_layers),
            n_shared_experts=shape.n_shared_experts,
        )

    def layer_problems(
        self, *, n_layers: int, moe_layers: Sequence[int], n_shared_experts: int
    ) -> list[str]:
        """Return what asks for layers, routers or shared experts that a model of these sizes lacks.

        `moe_layers` are the layers with experts, in order, one at least.
        """
        return [*self._missing_layers(n_layers - 1, moe_layers, n_shared_experts)]

    def _missing_layers(
        self, last: int, moe_layers: Sequence[int], n_shared_experts: int
    ) -> Iterator[str]:
        for window in self.windows:
            if window.last > last:
                yield f"windows: {window} goes beyond the model, whose last layer is {last}"
                continue
            for name, entry in self.dictionaries.items():
                if not {n + entry.router_shift for n in window.layers} & {*moe_layers}:
                    yield (
                        f"windows: no router of the model reads {name} on {window}; layers with "
                        f"experts are {moe_layers[0]} to {moe_layers[-1]}"
                    )
        if self.justify.layers is not None and self.justify.layers.last > last:
            yield (
                f"justify.layers: {self.justify.layers} goes beyond the model, whose last layer is "
                f"{last}"
            )
        for layer in self.activations.layers:
            if not 0 <= layer <= last:
                yield f"activations.layers: {layer} is not a layer of the model, 0 to {last}"
        if "shared_out" in self.activations.hook_points and not n_shared_experts:
            yield "activations.hook_points: shared_out, but the model has no shared experts"

    def _size_problems(self) -> list[str]:
        """Return what does not fit between sections."""
        problems = [] if self.dictionaries else ["dictionaries: empty; name at least one"]
        problems += [
            f"dictionaries.{name}: k {entry.k} is not less than d_dict {entry.d_dict}"
            for name, entry in self.dictionaries.items()
            if entry.k >= entry.d_dict
        ]
        longest = max(self.windows, key=lambda window: len(window.layers), default=None)
        if longest is not None:
            problems += self._form_problems(longest)
        problems += self._import_problems()
        problems += self._control_problems()
        if self.corpus.source != "planted" and self.model.source == "planted":
            problems.append("model.source planted reads corpus.source planted")
        if (
            self.batches.source == "live"
            and max(self.devices.n_gpus("dictionary"), self.devices.processes) > 1
        ):
            problems.append(
                "devices: batches.source live trains dictionaries in one process on one device; "
                "write dictionary: cuda or cpu and leave processes, or write source: cache"
            )
        if self.corpus.chat_key and self.model.source != "hub":
            problems.append(
                f"corpus.chat_key: the tokenizer of model.source {self.model.source} has no chat "
                "template; name a model of source hub whose tokenizer has one"
            )
        return problems

    def _control_problems(self) -> Iterator[str]:
        """Yield which controls would hold a model with random weights against itself."""
        asked = {
            "prediction.random_model": self.prediction.random_model,
            "trust.switches: weights": "weights" in self.trust.switches,
        }
        for name, is_asked in asked.items():
            if self.model.random_weights and is_asked:
                yield (
                    f"{name}: compares with random weights, and model.random_weights reads nothing "
                    "else; leave one of the two out"
                )

    def _form_problems(self, window: Window) -> Iterator[str]:
        """Yield which dictionaries are too small for a window."""
        n_layers = len(window.layers)
        for name, entry in self.dictionaries.items():
            if entry.kind == "transcoder" and entry.d_dict < n_layers:
                yield (
                    f"dictionaries.{name}: d_dict {entry.d_dict} leaves a layer of its window no "
                    "features"
                )
            elif entry.smallest_group(n_layers) < 1:
                yield (
                    f"dictionaries.{name}: d_dict {entry.d_dict} leaves one of the prefixes "
                    f"{[*entry.prefixes]} no features of its own on {window}"
                )
            if entry.kind == "transcoder" and entry.activation == "topk" and entry.k < n_layers:
                yield (
                    f"dictionaries.{name}: k {entry.k} is less than one for each of the {n_layers} "
                    f"layers of {window}, which share it with activation topk"
                )

    def _import_problems(self) -> Iterator[str]:
        """Yield what is wrong with imported dictionaries, as far as no file is looked at."""
        for name, entry in self.dictionaries.items():
            if not entry.imported:
                continue
            if entry.kind != "crosscoder":
                yield (
                    f"dictionaries.{name}: imported SAEs are of kind crosscoder, on one layer; "
                    f"found kind {entry.kind}"
                )
            longer = [str(window) for window in self.windows if len(window.layers) > 1]
            if longer:
                yield (
                    f"dictionaries.{name}: an imported SAE reads one layer, and the run has the "
                    f"windows {', '.join(longer)}; write windows of one layer, as "
                    f"{Window(self.windows[0].first, self.windows[0].first)}"
                )
            folder = entry.imported.folder
            if len(self.windows) > 1 and "{layer}" not in folder and "{window}" not in folder:
                yield (
                    f"dictionaries.{name}.imported.folder: {folder} is one folder for "
                    f"{len(self.windows)} windows; write {{layer}} or {{window}} in it"
                )

    def stage(self, section: str) -> dict[str, Any]:
        """Return a section as plain data for `params:`; only its own changes rerun a rule."""
        found: Section = getattr(self, section)
        return found.model_dump(mode="json", exclude=set(found.only_how))

    def dictionary(self, name: str) -> dict[str, Any]:
        """Return one named dictionary as plain data for `params:`."""
        return self.dictionaries[name].model_dump(mode="json")

    def rounds(self) -> Sequence[Round]:
        """Return the rounds of the train split; a single one where the run keeps its stores."""
        n_shards = self.corpus.n_shards("train")
        return rounds_of(n_shards, self.batches.round_shards or n_shards)

    def imported_folders(self) -> list[str]:
        """Return the folders of all imported dictionaries, on all windows."""
        entries = [entry.imported for entry in self.dictionaries.values() if entry.imported]
        return [entry.folder_of(window) for entry in entries for window in self.windows]

    def sites(self) -> tuple[str, ...]:
        """Return the names of all arrays that the activation stores must hold, in a fixed order."""
        wanted: set[Site] = set()
        for window in self.windows:
            for entry in self.dictionaries.values():
                wanted |= {
                    Site(point, layer) for point in _points(entry) for layer in window.layers
                }
        layers = self.activations.layers or {n for window in self.windows for n in window.layers}
        wanted |= {Site(point, n) for point in self.activations.hook_points for n in layers}
        return tuple(map(str, sorted(wanted, key=lambda site: (site.layer, site.hook_point))))

    def n_layers_read(self) -> int:
        """Return how many of the model's first layers the windows, hooks and their routers need.

        A crosscoder on the last layer names a router that is not there: a model may have fewer.
        """
        routers = {
            window.last + entry.router_shift
            for window in self.windows
            for entry in self.dictionaries.values()
        }
        return 1 + max(routers | {Site.parse(site).layer for site in self.sites()})


def _points(entry: DictionaryConfig) -> tuple[str, ...]:
    return ("resid_post",) if entry.kind == "crosscoder" else (entry.reads, "moe_out")


def load_run(raw: Mapping[str, Any]) -> RunConfig:
    """Return Snakemake's `config` as a RunConfig; raise ConfigError where it is wrong."""
    return read_section(RunConfig, raw)
