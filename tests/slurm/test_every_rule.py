"""Every rule through SLURM by the shipped profile, its Snakemake killed once: the same run."""

from itertools import combinations

from slurm_runs import digests, jobs
from steps import recorded

ON_CPU = ("rule_routing", "rule_labels", "rule_report")
OF_THE_RUN = (
    *(*ON_CPU, "rule_text", "rule_encoding", "rule_reads", "rule_cache_activations"),
    *("rule_train_dictionary", "rule_evaluate_dictionary", "rule_predict_routing"),
    *("rule_map_writes", "rule_compare_centroids", "rule_measure_saturation"),
)


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
    comments, partitions = dict(jobs("%i", "%k")), dict(jobs("%i", "%P"))
    steps = [step for step in recorded() if comments[step.job].startswith(OF_THE_RUN)]
    for step in steps:
        on_gpu = not comments[step.job].startswith(ON_CPU)
        assert len(step.gpus) == on_gpu, comments[step.job]
        assert partitions[step.job] == ("gpu" if on_gpu else "cpu"), comments[step.job]
    assert len(steps) > 20


def test_no_two_jobs_made_one_output_at_once(whole):
    comments = dict(jobs("%i", "%k"))
    steps = [step for step in recorded() if comments[step.job].startswith("rule_cache")]
    logs = {path.stem: path.read_text() for path in (whole / "logs/slurm").rglob("*.log")}
    for one, other in combinations(sorted(steps, key=lambda step: step.begin), 2):
        if comments[one.job] == comments[other.job] and one.meets(other):
            assert "are being made by" in logs[other.job]
