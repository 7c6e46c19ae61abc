"""Every rule through SLURM by the shipped profile, its Snakemake killed once: the same run."""

from itertools import combinations

from slurm_runs import digests, jobs
from steps import recorded

ON_CPU = ("group_routing", "group_labels", "group_report")


def submitted(whole) -> dict[str, str]:
    """Return what each job of the run was for, as rule_map_writes/small_crosscoder_L00-L01."""
    folder = whole / "logs/slurm"
    logs = folder.rglob("*.log")
    return {path.stem: str(path.parent.relative_to(folder)) for path in logs}


def test_its_files_are_those_of_a_run_without_slurm(whole, local):
    here, there = digests(local / "results/small"), digests(whole / "results/small")
    assert len(here) > 60
    assert {path for path in here | there if here.get(path) != there.get(path)} == set()


def test_every_rule_but_two_ran_in_a_job_of_slurm(whole):
    logs = {path.parent.name for path in (whole / "logs/slurm").rglob("*.log")}
    told = "\n".join(path.read_text() for path in (whole / "logs/slurm").rglob("*.log"))
    rules = {path.name.partition(".")[0] for path in (whole / "logs/small").iterdir()}
    assert len(rules) > 18
    assert logs  # kept, though all went well
    missing = {rule for rule in rules if f"(Rule: {rule})" not in told}
    assert missing == {"write_config"}


def test_no_device_ever_had_two_jobs(whole):
    steps = [step for step in recorded() if step.gpus]
    devices = {(step.node, gpu) for step in steps for gpu in step.gpus}
    assert len(devices) >= 3
    assert len(steps) > 8
    for one, other in combinations(steps, 2):
        shared = set(one.gpus) & set(other.gpus) if one.node == other.node else set()
        assert not (shared and one.meets(other)), (one, other)
    at_once = max(sum(one.meets(other) for other in steps) for one in steps)
    assert at_once > 1, "jobs on GPUs ran side by side"


def test_jobs_on_gpus_got_one_and_others_none(whole):
    names, partitions = submitted(whole), dict(jobs("%i", "%P"))
    steps = [step for step in recorded() if step.job in names]
    for step in steps:
        on_gpu = not names[step.job].startswith(ON_CPU)
        assert len(step.gpus) == on_gpu, names[step.job]
        assert partitions[step.job] == ("gpu" if on_gpu else "cpu"), names[step.job]
    assert len(steps) > 20


def test_no_two_jobs_made_one_output_at_once(whole):
    names = submitted(whole)
    steps = sorted((s for s in recorded() if s.job in names), key=lambda step: step.begin)
    logs = {path.stem: path.read_text() for path in (whole / "logs/slurm").rglob("*.log")}
    for one, other in combinations(steps, 2):
        alone = names[one.job].startswith("rule_")  # jobs of a group share a folder of logs
        if alone and names[one.job] == names[other.job] and one.meets(other):
            # The later one waited; or the orphan came to its work late, and was refused.
            was_alone = "are being made by" in logs[other.job] or any(
                "another has taken over" in logs[step.job] for step in (one, other)
            )
            assert was_alone, names[one.job]
