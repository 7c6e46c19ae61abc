"""Processes that lease GPUs, for tests: `python lease_jobs.py [{"pins": …, "seconds": …}, …]`."""

import json
import multiprocessing
import os
import sys
import time
from types import SimpleNamespace

from deepseemoe.runtime.lease import held, leased
from deepseemoe.runtime.pins import encoded


def hold(_lease, pid_file):
    with open(pid_file, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(60)


def child(how, pid_file):
    """Start a process that lives on for a minute, forked or spawned."""
    if how == "fork":
        if os.fork() == 0:
            hold(None, pid_file)
            os._exit(0)
    elif how == "spawn":
        context = multiprocessing.get_context("spawn")
        context.Process(target=hold, args=(held(), pid_file), daemon=True).start()


def say(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main(tasks):
    for task in tasks:
        job = SimpleNamespace(resources={"pins": encoded(task["pins"])}, rule="train_dictionary")
        with leased(job) as lease:
            began = time.monotonic()
            child(task.get("child"), task.get("pid_file"))
            say([lease.ids, os.environ["CUDA_VISIBLE_DEVICES"], began])
            time.sleep(task.get("seconds", 0.02))
            say(time.monotonic())


if __name__ == "__main__":
    import logging

    logging.basicConfig(level="INFO", format="%(message)s")
    main(json.loads(sys.argv[1]))
