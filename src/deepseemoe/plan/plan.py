"""A plan: the figures of a run, what does not fit, and what would."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from deepseemoe.config import RunConfig
from deepseemoe.plan.dictionaries import Shape, kinds_of, shapes_of
from deepseemoe.plan.disk import disk_figures
from deepseemoe.plan.figures import Figure, Section, shown_bytes, shown_count
from deepseemoe.plan.hours import hours_of
from deepseemoe.plan.labels import Prices, label_figures
from deepseemoe.plan.limits import Limits, Problem, problems_of
from deepseemoe.plan.memory import model_bytes
from deepseemoe.plan.network import Network
from deepseemoe.plan.stores import loaded
from deepseemoe.plan.uses import uses_of
from deepseemoe.plan.workflow import Stage, stages_of, warnings_of, workflow_figures


class Plan(NamedTuple):
    """All sections of a plan, and its verdict."""

    run: RunConfig
    network: Network
    sections: tuple[Section, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...] = ()
    """Lines on what fits and is a waste."""

    def plain(self) -> dict[str, Any]:
        """Return the plan as plain data, for JSON; bytes are bytes."""
        sections = {s.title: [f.plain() for f in s.figures] for s in self.sections}
        problems = [{"what": p.what, "needed": p.needed, "there": p.there} for p in self.problems]
        verdict = {"problems": problems, "warnings": list(self.warnings)}
        return {"run": self.run.name, "fits": not problems, **sections, **verdict}


def make_plan(
    run: RunConfig,
    network: Network,
    limits: Limits,
    *,
    tokens_per_second: float | None = None,
    prices: Prices | None = None,
    answer_tokens: int = 0,
) -> Plan:
    """Return the plan of a run.

    `tokens_per_second` is the speed of the layers that capture runs, where it is known better.
    Raises ValueError where a window or hook point is none of the model's.
    """
    _check(run, network)
    shapes = shapes_of(run, d_model=network.d_model)
    disk, uses = disk_figures(run, network, shapes), uses_of(run, network, shapes)

    def stages_for(changed: RunConfig) -> tuple[Stage, ...]:
        return stages_of(changed, network, shapes, tokens_per_second)

    sections = (
        Section("model", tuple(_model(run, network))),
        Section("dictionaries", tuple(_dictionaries(shapes))),
        Section("memory", tuple(use.figure() for use in uses)),
        Section("disk", disk),
        Section("time", hours_of(run, network, shapes, tokens_per_second)),
        Section("workflow", workflow_figures(run, stages_for(run))),
        Section("labels", tuple(label_figures(run, network, shapes, prices, answer_tokens))),
    )
    problems = tuple(problems_of(disk, uses, limits, run))
    return Plan(run, network, sections, problems, tuple(warnings_of(run, stages_for)))


def _check(run: RunConfig, network: Network) -> None:
    """Raise ValueError with all that the run asks of a model that has not got it."""
    problems = run.layer_problems(
        n_layers=network.n_layers,
        moe_layers=network.moe_layers,
        n_shared_experts=network.n_shared_experts,
    )
    if problems:
        raise ValueError("; ".join(problems))


def _model(run: RunConfig, network: Network) -> Iterator[Figure]:
    n_inside = sum(layer.n_parameters for layer in network.layers)
    n_routed = sum(layer.n_routed for layer in network.layers)
    how = (
        f"{network.n_layers} layers {shown_count(n_inside)} (routed experts "
        f"{shown_count(n_routed)}) + embedding, head, norm "
        f"{shown_count(network.n_parameters - n_inside)}; "
        f"{shown_bytes(model_bytes(run.model, network)[0])} in {run.model.dtype}"
    )
    yield Figure("parameters", network.n_parameters, "parameters", how)
    shared = f" and {network.n_shared_experts} shared" * bool(network.n_shared_experts)
    how = (
        f"{network.top_k} of {network.n_experts} experts{shared}; "
        f"{shown_count(network.n_active - network.n_embedding)} without the embedding"
    )
    yield Figure("active a token", network.n_active, "parameters", how)
    part = loaded(run, network)
    how = (
        f"{part.n_layers} of {network.n_layers} layers, no head; "
        f"{shown_bytes(model_bytes(run.model, part)[0])} in {run.model.dtype}"
    )
    yield Figure("loaded for capture", part.n_parameters, "parameters", how)


def _dictionaries(shapes: Sequence[Shape]) -> Iterator[Figure]:
    for label, (shape, *others) in kinds_of(shapes).items():
        each = "each " * bool(others)
        how = (
            f"{each}{shape.config.d_dict:,} features: encoder {shown_count(shape.n_encoder)} + "
            f"decoder {shown_count(shape.n_decoder)} + biases"
        )
        yield Figure(label, shape.n_parameters, "parameters", how)
        how = "float32, with zeros where a transcoder writes none; mean and scale of layers"
        yield Figure("  weights.safetensors", shape.file_bytes, "bytes", how)
        if shape.config.imported:
            continue
        how = "3 × parameters × 4 B (weights, Adam's moments) + 8 B a feature"
        yield Figure("  checkpoint", shape.checkpoint_bytes, "bytes", how)
        how = "4 × parameters × 4 B (weights, gradient, moments) + 8 B a feature"
        yield Figure("  held in training", shape.held_bytes, "bytes", how)
