"""Hours follow from speeds, and measured speeds go before assumed ones."""

import pytest

from deepseemoe.config import load_run
from deepseemoe.plan.dictionaries import shapes_of
from deepseemoe.plan.hours import hours_of

TSV = "s\th:m:s\tmax_rss\n{seconds}\t0:00:20\t812.3\n"
LINE = "INFO deepseemoe.runtime.progress: {what}: {n} of {n} tokens, {rate} tokens/s, 0 s left\n"


@pytest.fixture
def run(tmp_path):
    """Return the default run, whose logs and benchmarks stand in a folder of their own."""
    return load_run({"pathvars": {kind: str(tmp_path / kind) for kind in ("logs", "benchmarks")}})


def figures(run, network, given=None):
    shapes = shapes_of(run, d_model=network.d_model)
    return {figure.name: figure for figure in hours_of(run, network, shapes, given)}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def speed(run, network, given=None):
    found = figures(run, network, given)["model, first layers"]
    return found.value, found.how


def test_without_a_run_the_speed_is_assumed_and_says_of_what(run, tiny_network):
    value, how = speed(run, tiny_network)
    assert how.startswith("assumed: ")
    assert "25% of 0.1 TFLOP/s (one CPU core)" in how
    assert 5_000 < value < 30_000  # 13,000 were measured, docs/performance.md


def test_benchmarks_of_a_run_give_its_speed(run, tiny_network, tmp_path):
    folder = tmp_path / "benchmarks/tiny/cache_activations"
    write(folder / "train-00000.tsv", TSV.format(seconds=20))  # 262,144 tokens
    write(folder / "select-00000.tsv", TSV.format(seconds=20))  # 131,072
    value, how = speed(run, tiny_network)
    assert value == pytest.approx((262_144 / 20 + 131_072 / 20) / 2)
    assert how.startswith("measured: ")
    assert str(folder) in how


def test_logs_go_before_benchmarks_since_they_leave_out_the_loading(run, tiny_network, tmp_path):
    write(tmp_path / "benchmarks/tiny/cache_activations/test-00000.tsv", TSV.format(seconds=20))
    told = LINE.format(what="activations of test/00000", n=262_144, rate=9_000)
    write(tmp_path / "logs/tiny/cache_activations/test-00000.log", told.replace("9000", "1") + told)
    assert speed(run, tiny_network)[0] == 9_000


def test_a_given_speed_goes_before_all(run, tiny_network, tmp_path):
    write(tmp_path / "benchmarks/tiny/cache_activations/test-00000.tsv", TSV.format(seconds=20))
    found = figures(run, tiny_network, given=1000.0)
    assert found["model, first layers"].value == 1000
    n_tokens = 1_048_576 + 131_072 + 262_144
    name = "cache_activations (train, select, test)"
    assert found[name].value == pytest.approx(n_tokens / 1000 / 3600)


def test_the_log_of_a_training_gives_its_speed(run, tiny_network, tmp_path):
    told = LINE.format(what="train crosscoder L00-L01", n=2_000_000, rate=40_000)
    write(tmp_path / "logs/tiny/train_dictionary/crosscoder-L00-L01.log", told)
    found = figures(run, tiny_network)["train crosscoder, 2 windows"]
    assert found.value == pytest.approx(2 * 2_000_000 / 40_000 / 3600)
    assert "measured" in found.how


def test_capture_of_large_tokens_waits_for_the_disk(published):
    model = {"source": "hub", "name": "openai/gpt-oss-20b", "dtype": "bfloat16"}
    run = load_run(
        {"name": "none", "model": model, "windows": ["L10-L12"], "devices": {"activations": "cuda"}}
    )
    found = figures(run, published("gpt-oss-20b"))["cache_activations (train, select, test)"]
    assert "the disk, at 1 GB/s" in found.how


def test_live_training_takes_as_long_as_the_slower_side(tiny_network):
    live = {"source": "live"}
    apart = load_run({"batches": live, "devices": {"activations": "cuda", "dictionary": "cuda"}})
    together = load_run({"batches": live})
    one = load_run({"batches": live, "devices": {"activations": "cuda:0", "dictionary": "cuda:0"}})
    assert "beside each other" in figures(apart, tiny_network)["train_live"].how
    for run in (together, one):
        assert "after each other" in figures(run, tiny_network)["train_live"].how


def test_the_log_of_live_training_gives_the_speed_of_both_sides(run, tiny_network, tmp_path):
    told = LINE.format(what="train crosscoder L00-L01", n=2_000_000, rate=5_000)
    write(tmp_path / "logs/tiny/train_live.log", told)
    live = run.model_copy(update={"batches": load_run({"batches": {"source": "live"}}).batches})
    found = figures(live, tiny_network)["train_live"]
    assert found.value == pytest.approx(2_000_000 / 5_000 / 3600)
    assert "measured" in found.how
    assert speed(live, tiny_network)[1].startswith("assumed")  # it is not the model's own speed


def test_the_hours_add_up(run, tiny_network):
    found = figures(run, tiny_network)
    hours = [figure.value for figure in found.values() if figure.unit == "hours"]
    assert found["these together"].value == pytest.approx(sum(hours) / 2)
