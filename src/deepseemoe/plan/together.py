"""How many dictionaries one job trains together: a number, or what fits a GPU.

The Snakefile asks, so nothing here imports torch.
"""

from deepseemoe.config import ConfigError, RunConfig
from deepseemoe.config.groups import Fits, Group, at_most, groups_of
from deepseemoe.plan.dictionaries import FLOAT, Shape
from deepseemoe.plan.figures import GIB, RESERVE_GIB
from deepseemoe.plan.sizes import fetched_sizes


def grouped(run: RunConfig, *, d_model: int) -> list[list[Shape]]:
    """Return the dictionaries that each job of a run trains."""
    return [shapes_in(run, group, d_model) for group in groups_of(run, _fits(run, d_model))]


def shapes_in(run: RunConfig, group: Group, d_model: int) -> list[Shape]:
    """Return the sizes of some dictionaries."""
    return [Shape(name, run.dictionaries[name], window, d_model) for name, window in group]


def rows_bytes(shapes: list[Shape]) -> int:
    """Return the bytes of a batch of all sites of some dictionaries, and of one's columns of it."""
    sites = {site for shape in shapes for site in shape.sites}
    most = max(len(shape.sites) for shape in shapes)
    return FLOAT * shapes[0].config.batch_tokens * (len(sites) + most) * shapes[0].d_model


def group_bytes(shapes: list[Shape], n_gpus: int = 1) -> int:
    """Return what a GPU holds that trains some dictionaries together; they take turns in steps.

    Several GPUs share what is held; a step's matrices are as large on each.
    """
    held = sum(shape.held_bytes for shape in shapes) // n_gpus
    rows = rows_bytes(shapes) if len(shapes) > 1 else 0
    return held + max(shape.step_bytes for shape in shapes) + rows


def _fits(run: RunConfig, d_model: int) -> Fits:
    together = run.batches.together
    if together != "auto":
        return at_most(together)
    return fits_gpus(run, d_model) if run.devices.on_gpu("dictionary") else at_most(1)


def fits_gpus(run: RunConfig, d_model: int) -> Fits:
    """Return whether a group fits the GPUs that a job has."""
    n_gpus = run.devices.n_gpus("dictionary")
    there = (run.devices.gpu_gib - RESERVE_GIB) * GIB
    return lambda group: group_bytes(shapes_in(run, group, d_model), n_gpus) <= there


def width_of(run: RunConfig) -> int:
    """Return d_model of a run's model; raise ConfigError where its config.json cannot be had."""
    if run.model.source != "hub":
        return run.model.architecture.d_model
    try:
        return fetched_sizes(run).d_model
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"batches.together: auto needs the width of {run.model.name}, but {error}; "
            "write a number instead"
        ) from None
