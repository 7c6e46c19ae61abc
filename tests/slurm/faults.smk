"""The workflow, and jobs beside it to which things happen: what SLURM and the profile make of them."""

include: "../../Snakefile"


rule faults:
    """All of them; none is made by the workflow itself."""
    input:
        expand(
            "faults/{name}.txt",
            name=("cancelled", "on_dying_node", "over_time", "over_memory"),
        ),


# Pinned to a node, so that only one job is on the node that dies.
rule cancelled:
    output:
        "faults/cancelled.txt",
    resources:
        mem_mb=memory("cancelled", 500),
        runtime=minutes(5),
        slurm_extra="--nodelist=n2",
    shell:
        "sleep 20; echo $SLURMD_NODENAME {resources.mem_mb} > {output}"


rule on_dying_node:
    output:
        "faults/on_dying_node.txt",
    resources:
        mem_mb=memory("on_dying_node", 500),
        runtime=minutes(5),
    shell:
        "sleep 20; echo $SLURMD_NODENAME {resources.mem_mb} > {output}"


rule over_time:
    output:
        "faults/over_time.txt",
    resources:
        mem_mb=memory("over_time", 500),
        runtime=minutes(1),
        slurm_extra="--nodelist=n2",
    shell:
        "sleep 80; echo $SLURMD_NODENAME {resources.runtime} > {output}"


rule over_memory:
    output:
        "faults/over_memory.txt",
    resources:
        mem_mb=memory("over_memory", 0),
        runtime=minutes(5),
        slurm_extra="--nodelist=n2",
    shell:
        "python3 -c 'import time; held = b\"1\" * 600_000_000; time.sleep(5)'; "
        "echo $SLURMD_NODENAME {resources.mem_mb} > {output}"


rule fails:
    output:
        "faults/fails.txt",
    resources:
        mem_mb=memory("fails", 500),
        runtime=minutes(5),
    shell:
        "echo 'rule fails: this file is wrong' >&2; exit 1"


rule device:
    output:
        "faults/device-{number}.txt",
    resources:
        **gpu("model"),
        mem_mb=memory("device", 500),
        runtime=minutes(5),
    shell:
        "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES > {output}"
