"""Jobs that capture several shards make the stores that jobs of one make."""

import shutil

import yaml
from runs import ROOT, digests, planned, snakemake

SMALL = ROOT / "tests/config/small.yaml"
STORES = "results/small/activations/train"


def test_grouped_jobs_make_the_same_stores_and_a_finished_run_can_change_to_them(
    small_run, tmp_path
):
    workdir = tmp_path / "grouped"
    shutil.copytree(small_run, workdir, symlinks=True)
    shutil.rmtree(workdir / STORES)
    grouped = workdir / "grouped.yaml"
    grouped.write_text(yaml.safe_dump({"activations": {"shards_per_job": 3}}))
    targets = [f"{STORES}/0000{shard}.zarr" for shard in range(4)]
    done = snakemake(workdir, (SMALL, grouped), *targets)
    assert done.returncode == 0, done.stdout[-8000:]
    assert digests(workdir / STORES) == digests(small_run / STORES)
    assert not [*(workdir / STORES).glob(".growing*")]
    assert not planned(workdir, (SMALL, grouped), *targets)
    # docs/scale.md says so: what was recorded of the stores is forgotten, and nothing is made again
    forgotten = snakemake(workdir, SMALL, "--cleanup-metadata", *targets)
    assert forgotten.returncode == 0, forgotten.stdout[-3000:]
    assert not planned(workdir, SMALL, *targets)
