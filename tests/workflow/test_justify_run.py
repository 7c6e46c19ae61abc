"""The target `justify` from corpus and model to its table, figure and sentences, and no further."""

import shutil

import pyarrow.parquet as pq
import pytest
from runs import ROOT, planned, prepare, snakemake

from deepseemoe.runtime.files import read_json

CONFIG = (ROOT / "tests/config/small.yaml", ROOT / "tests/config/justify.yaml")


@pytest.fixture(scope="module")
def justified(small_run, tmp_path_factory):
    """Return a folder in which the comparison was made, from the small run's corpus and model."""
    workdir = prepare(tmp_path_factory.mktemp("justified"))
    for part in ("corpus", "model"):
        shutil.copytree(small_run / "results/small" / part, workdir / "results/small" / part)
    done = snakemake(workdir, CONFIG, "justify")
    assert done.returncode == 0, done.stdout[-8000:]
    return workdir


def test_it_writes_one_table_one_figure_and_three_sentences(justified):
    folder = justified / "results/small/justify"
    finding = read_json(folder / "finding.json")
    assert len(finding["sentences"]) == 3
    assert finding["verdict"] in ("better", "mixed", "artefact", "no benefit")
    page = (folder / "page.html").read_text()
    assert finding["sentences"][2].split(" ")[0] in page
    assert (folder / "figure.svg").stat().st_size > 10_000
    table = pq.read_table(folder / "table.parquet").to_pylist()
    pooled = {(r["arm"], r["endpoint"]) for r in table if r["width"] == 2 and r["window"] is None}
    arms = ("crosscoder", "features-l0", "cost-pairs", "copy")
    for endpoint in ("fvu", "loss_recovered", "router_agreement", "routing_f1", "l0"):
        assert {(arm, endpoint) for arm in arms} <= pooled
    assert {("shuffled", "fvu"), ("pca", "routing_f1")} <= pooled


def test_each_dictionary_is_trained_once_whichever_arms_need_it(justified):
    """SAEs of features-l0 are the crosscoders of width 1; copy decodes one of cost-pairs."""
    trained = justified.glob("results/small/justify/dictionary/*/*/*/weights.safetensors")
    found = sorted("/".join(path.parts[-4:-1]) for path in trained)
    assert found == [
        "shuffled-F64-k8/L00-L01/0",
        "trained-F32-k4/L00-L00/0",
        "trained-F32-k4/L01-L01/0",
        "trained-F64-k8/L00-L00/0",
        "trained-F64-k8/L00-L01/0",
        "trained-F64-k8/L01-L01/0",
    ]


def test_a_second_call_does_nothing_and_all_asks_for_none_of_it(justified):
    assert planned(justified, CONFIG, "justify") == {}
    assert not {"train_arm", "evaluate_arms"} & set(planned(justified, CONFIG))


def test_a_changed_endpoint_trains_and_evaluates_nothing_again(justified):
    setting = "justify={'endpoint': 'loss_recovered'}"
    plan = planned(justified, CONFIG, "justify", "--config", setting)
    assert set(plan) == {"compare_arms", "draw_justification", "justify"}
