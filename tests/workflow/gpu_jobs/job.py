"""Note which GPUs the job was given, and from when to when."""

from deepseemoe.runtime.stage import devices, run_stage


def main(job):
    """Hold what was leased for a while, or until the workflow's folder says so."""
    import json
    import os
    import time
    from pathlib import Path

    began = time.time()
    name = Path(job.output[0]).name
    Path(f"{name}.begun").touch()
    while time.time() < began + 0.2 or Path("hold").exists():
        time.sleep(0.02)
    held = {
        "job": name,
        "pid": os.getpid(),
        "gpus": os.environ["CUDA_VISIBLE_DEVICES"],
        "devices": devices(job),
        "began": began,
        "ended": time.time(),
    }
    with open("events.jsonl", "a") as file:
        file.write(json.dumps(held) + "\n")
    Path(job.output[0]).touch()


if __name__ == "__main__":
    run_stage(main, snakemake)  # noqa: F821
