"""A generated language and a model with hand-set weights: the path gives their map back."""

from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from runs import ROOT, prepare, snakemake
from transformers import AutoTokenizer

from deepseemoe.corpus.planted import class_of_word
from deepseemoe.features.store import FeatureShard
from deepseemoe.runtime.files import read_json

PLANTED = ROOT / "tests/config/planted.yaml"
TOP_K = 2  # of the default architecture
WINDOWS = {"L00-L00": 1, "L01-L01": 2}  # the window, and the router above it


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = prepare(tmp_path_factory.mktemp("planted"))
    done = snakemake(workdir, PLANTED, "--until", "label_features")
    assert done.returncode == 0, done.stdout[-8000:]
    return workdir / "results/planted"


def class_of_each_token(run) -> list[str]:
    """Return the class of every token id; tokens that are no word have none."""
    tokenizer = AutoTokenizer.from_pretrained(run / "corpus/tokenizer")
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return ["" if word.startswith("<|") else class_of_word(word) for word in words]


def feature_of_each_class(run, window) -> dict[str, tuple[int, float]]:
    """Return the feature that best tells each class's tokens, and its F1."""
    shard = FeatureShard.open(run / "features/crosscoder" / window / "00000.zarr")
    is_active_TF = (shard.matrix() > 0).astype(np.float64)
    names = np.array(class_of_each_token(run))[shard.token_ids]
    is_valid = np.asarray(shard.is_valid, dtype=bool)
    n_active_F = np.asarray(is_active_TF.sum(0)).ravel()
    best = {}
    for name in sorted(set(names) - {"", "filler"}):
        is_class = is_valid & (names == name)
        f1_F = 2 * (is_class @ is_active_TF) / (n_active_F + is_class.sum())
        best[name] = (int(f1_F.argmax()), float(f1_F.max()))
    return best


def reads_of(run, window, layer) -> dict[int, list[dict]]:
    """Return the experts of a layer that each feature calls (q < .05, log odds > 0), best first."""
    table = pq.read_table(run / "experts/crosscoder" / window / "reads.parquet").to_pylist()
    rows = [row for row in table if row["layer"] == layer and row["q"] < 0.05 and row["lor"] > 0]
    called = defaultdict(list)
    for row in sorted(rows, key=lambda row: -row["lor_lo"]):
        called[row["feature"]].append(row)
    return called


def planted_reads(run, layer) -> dict[str, list[int]]:
    """Return the experts that each class calls because of its direction; some call none."""
    return read_json(run / "model/truth.json")["layers"][f"L{layer:02d}"]["reads"]


def has_many_words(name: str) -> bool:
    """A trigger is one word: what its own word calls cannot be told from what its class calls."""
    return not name.startswith("trigger:")


@pytest.mark.parametrize(("window", "layer"), WINDOWS.items())
def test_every_planted_class_has_its_feature(run, window, layer):
    scores = [f1 for _, f1 in feature_of_each_class(run, window).values()]
    assert np.mean(np.array(scores) > 0.8) >= 0.9, scores


@pytest.mark.parametrize(("window", "layer"), WINDOWS.items())
def test_the_feature_of_a_class_calls_the_planted_experts_and_those_first(run, window, layer):
    truth, called = planted_reads(run, layer), reads_of(run, window, layer)
    found, among = {}, {}
    for name, (feature, _) in feature_of_each_class(run, window).items():
        experts = [row["expert"] for row in called[feature]]
        if truth[name]:
            among[name] = set(truth[name]) <= set(experts[:TOP_K])
            if has_many_words(name):
                found[name] = set(experts[: len(truth[name])]) == set(truth[name])
    assert np.mean(list(found.values())) >= 0.9, found
    assert np.mean(list(among.values())) >= 0.9, among


@pytest.mark.parametrize(("window", "layer"), WINDOWS.items())
def test_the_feature_of_a_class_that_calls_nobody_leans_on_no_expert(run, window, layer):
    truth, called = planted_reads(run, layer), reads_of(run, window, layer)
    shares = {False: [], True: []}
    for name, (feature, _) in feature_of_each_class(run, window).items():
        if has_many_words(name):
            share = max((row["p_e_given_f"] for row in called[feature]), default=0.0)
            shares[bool(truth[name])].append(share)
    assert min(shares[True]) > 0.8, shares
    assert max(shares[False]) < 0.6, shares


@pytest.mark.parametrize(("window", "layer"), WINDOWS.items())
def test_labels_name_words_of_the_planted_class(run, window, layer):
    labels = pq.read_table(run / "labels/crosscoder" / window / "features.parquet").to_pylist()
    of_feature = {row["feature"]: row["label"] for row in labels}
    words = {
        name: [w for w in vocabulary_of(run, name) if w in of_feature.get(feature, "")]
        for name, (feature, _) in feature_of_each_class(run, window).items()
    }
    assert np.mean([bool(found) for found in words.values()]) >= 0.8, words


def vocabulary_of(run, name) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(run / "corpus/tokenizer")
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return [w for w, of in zip(words, class_of_each_token(run), strict=True) if of == name]
