"""A plan as lines for a terminal."""

from collections.abc import Iterator

from deepseemoe.plan.figures import Figure, shown
from deepseemoe.plan.plan import Plan
from deepseemoe.plan.remedies import Refit, remedies

NO_REMEDY = "no change of one or two keys is enough"


def plan_text(plan: Plan, refit: Refit) -> str:
    """Return the plan as text; `refit` tells what does not fit of a changed run."""
    return "\n".join([_heading(plan), *_sections(plan), *_verdict(plan, refit)])


def _heading(plan: Plan) -> str:
    run, network = plan.run, plan.network
    windows = ", ".join(map(str, run.windows))
    return (
        f"{run.name}: {run.model.name or run.model.source} ({network.family}, {network.n_layers} "
        f"layers, d_model {network.d_model:,}, {network.n_experts} experts, top "
        f"{network.top_k}); windows {windows}; source {run.batches.source}. ~ is an estimate"
    )


def _sections(plan: Plan) -> Iterator[str]:
    names = [figure.name for section in plan.sections for figure in section.figures]
    width = max(map(len, names))
    for section in plan.sections:
        yield section.title.upper()
        yield from (_line(figure, width) for figure in section.figures)


def _line(figure: Figure, width: int) -> str:
    return f"  {figure.name:<{width}} {shown(figure):>12}   {figure.how}".rstrip()


def _verdict(plan: Plan, refit: Refit) -> Iterator[str]:
    yield "VERDICT"
    yield from (f"  short jobs: {warning}" for warning in plan.warnings)
    if not plan.problems:
        yield f"  fits; {_call(plan)}"
    for problem in plan.problems:
        yield f"  does not fit: {problem}"
        found = remedies(plan.run, problem, refit)
        if problem.kind == "disk":
            found.append("pathvars: {results: FOLDER ON ANOTHER DISK}")
        yield f"    write {', or '.join(found)}" if found else f"    {NO_REMEDY}"


def _call(plan: Plan) -> str:
    """Return how many GPUs the largest job takes, as Snakemake is told."""
    devices = plan.run.devices
    n_gpus = max(devices.n_gpus(stage) for stage in devices.stages)
    if plan.run.batches.source == "live":
        n_gpus = max(n_gpus, devices.n_gpus("activations", "dictionary"))
    return f"the largest job takes {n_gpus} GPUs: --resources gpu={n_gpus}" if n_gpus else "on CPUs"
