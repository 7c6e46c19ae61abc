"""A run that is killed in the middle of every stage ends in the bytes of one that was not."""

from runs import ROOT, digests, kill_within, prepare, snakemake

SMALL = ROOT / "tests/config/small.yaml"
# Every rule, in the order of the path, and how long a job of it has worked when the kill comes
# (seconds from the start of its log). The long ones die twice.
KILLS = [
    ("prepare_tokenizer", 1.5),
    ("pack_corpus", 2.0),
    ("train_model", 5.0),
    ("train_model", 6.0),
    ("cache_activations", 3.5),
    ("tabulate_routing", 1.0),
    ("train_dictionary", 3.5),
    ("train_dictionary", 4.5),
    ("evaluate_dictionary", 4.0),
    ("encode_features", 2.5),
    ("collect_examples", 1.5),
    ("measure_effects", 4.0),
    ("map_reads", 4.0),
    ("map_writes", 4.0),
    ("predict_routing", 4.0),
    ("label_features", 1.5),
    ("label_experts", 0.5),
    ("draw_figures", 1.5),
    ("write_summary", 0.5),
]


def test_a_killed_run_ends_in_the_same_bytes(small_run, tmp_path):
    workdir = prepare(tmp_path / "killed")
    missed = []
    for (rule, seconds), (following, _) in zip(KILLS, KILLS[1:] + [("", 0)], strict=True):
        if not kill_within(workdir, SMALL, rule, seconds):
            missed.append(rule)
        snakemake(workdir, SMALL, "--unlock")
        if rule != following:
            done = snakemake(workdir, SMALL, "--until", rule)
            assert done.returncode == 0, done.stdout[-8000:]
    done = snakemake(workdir, SMALL)
    assert done.returncode == 0, done.stdout[-8000:]
    assert len(missed) <= 3, missed
    whole, killed = digests(small_run / "results"), digests(workdir / "results")
    assert sorted(whole) == sorted(killed)
    assert [name for name in whole if whole[name] != killed[name]] == []
