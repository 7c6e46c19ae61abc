"""Which GPUs the rules use, and that no two jobs are given one.

Resources of rules on GPUs have `**gpu("stage", ...)`, which is `gpu`, `pins` and `nodes`, of which a
cluster is asked for the first and the last, and `cuda0`, `cuda1`, ... and `gpus_here`, which this
machine has once. The latter are registered here, so they hold whatever --resources or a profile
says, and have the scope "local": whoever submits jobs to a cluster does not count them.
In:  RUN, the configuration
"""

import sys

from snakemake.logging import logger

from deepseemoe.runtime.devices import (
    problem_of_gpus,
    problem_of_grant,
    remarks_on_gpus,
)
from deepseemoe.runtime.gpus import Gpus, gpus_here
from deepseemoe.runtime.pins import resources

# Only the process that schedules counts GPUs; the others run what they are given.
try:
    GPUS = (
        gpus_here()
        if workflow.is_main_process and any(map(RUN.devices.on_gpu, RUN.devices.stages))
        else Gpus(())
    )
except ValueError as error:  # told without the places in the code where it was found
    logger.error(str(error))
    sys.exit(1)
N_GPUS = len(GPUS.gpus)

if N_GPUS:
    here = {f"cuda{number}": 1 for number in range(N_GPUS)} | {"gpus_here": N_GPUS}
    workflow.resource_scopes.update(dict.fromkeys(here, "local"))
    for name, number in here.items():
        workflow.register_resource(name, number)


def gpu(*stages, most=None):
    """Return the resources of a job that does these stages: its GPUs, all of one node.

    A job that computes on one device only takes `most` 1: the first of those that are named.
    """
    return resources(RUN.devices, stages, n_here=N_GPUS, most=most)


def check_gpus():
    """Tell on screen which GPUs jobs will do without; raise ValueError where they must not."""
    rules_to_run = {job.rule for job in workflow.dag.needrun_jobs()}
    is_asked = any("pins" in {*rule.resources.keys()} for rule in rules_to_run)
    # A cluster has GPUs of its own.
    if not workflow.local_exec or not is_asked:
        return
    found = problem_of_gpus(RUN.devices, GPUS) or problem_of_grant(RUN.devices, GPUS)
    if found:
        raise ValueError(found)
    for remark in remarks_on_gpus(RUN.devices, GPUS):
        print(f"WARNING: {remark}", file=sys.stderr, flush=True)
