"""Why a job of SLURM ended, from the words of SLURM and Snakemake."""

import pytest

from deepseemoe.runtime.endings import endings

ERROR = """\
[Fri Nov 27 07:34:04 2026]
Error in rule {rule}:
    message: SLURM-job '{job}' failed, SLURM status is: 'FAILED'. For further error details see
    jobid: 4
    output: results/tiny/model
    log: logs/tiny/{rule}.log, {place} (check log file(s) for error details)
    (command exited with non-zero exit code)
    external_jobid: {job}
"""

CAUSES = {
    "slurmstepd: error: StepId=42.0 exceeded memory limit (703881216 > 524288000), killed": (
        "it took more memory than it had asked for (671 of 500 MiB); each try has twice as much, "
        "and --set-resources train_model:mem_mb=MB gives more"
    ),
    "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks": (
        "it took more memory than it had asked for; each try"
    ),
    "slurmstepd: error: *** JOB 41 ON n2 CANCELLED AT 2026-11-27T07:35 DUE TO TIME LIMIT ***": (
        "it took longer than it had asked for; each try has twice as long, and --set-resources "
        "train_model:runtime=MINUTES gives more"
    ),
    "slurmstepd: error: *** JOB 39 ON n1 CANCELLED AT 2026-11-27T07:35 DUE TO NODE FAILURE ***": (
        "its node died"
    ),
    "slurmstepd-n2: error: *** STEP 40.0 ON n2 CANCELLED AT 2026-11-27T07:34:11 ***": (
        "somebody cancelled it"
    ),
    "2026-11-27 07:19:06,496 ERROR deepseemoe.runtime.stage: rule train_model: x.zarr: damaged": (
        "x.zarr: damaged"
    ),
    "Segmentation fault": "it failed; what it said stands in ",
}


@pytest.mark.parametrize("line", CAUSES, ids=list(range(len(CAUSES))))
def test_each_cause_is_one_line(line, tmp_path):
    place = tmp_path / "rule_train_model/tiny/42.log"
    place.parent.mkdir(parents=True)
    place.write_text(f"Building DAG of jobs...\n{line}\nWorkflowError:\n")
    log = tmp_path / "snakemake.log"
    log.write_text(ERROR.format(rule="train_model", job=42, place=place))
    (told,) = endings(log)
    assert told.startswith(f"rule train_model, SLURM job 42: {CAUSES[line]}")
    assert str(place) in told
    assert "\n" not in told


def test_of_several_tries_the_last_is_told(tmp_path):
    log = tmp_path / "snakemake.log"
    folder = tmp_path / "rule_map_reads/tiny_a_L00-L01"
    folder.mkdir(parents=True)
    (folder / "7.log").write_text("DUE TO TIME LIMIT")
    (folder / "9.log").write_text("oom-kill")
    tries = [ERROR.format(rule="map_reads", job=n, place=folder / f"{n}.log") for n in (7, 9)]
    other = ERROR.format(rule="map_writes", job=8, place=tmp_path / "rule_map_writes/x/8.log")
    log.write_text(tries[0] + other + tries[1])
    assert [line.partition(":")[0] for line in endings(log)] == [
        "rule map_reads, SLURM job 9",
        "rule map_writes, SLURM job 8",
    ]
    assert "left no log" in endings(log)[1]


def test_without_slurm_nothing_is_told(tmp_path):
    log = tmp_path / "snakemake.log"
    assert endings(log) == []
    log.write_text("Error in rule train_model:\n    jobid: 4\n    log: logs/tiny/train_model.log\n")
    assert endings(log) == []
