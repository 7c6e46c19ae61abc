"""A plausible run, made from a seed: every table that the report reads, with a planted map.

Features call experts in `fake_maps`; the tables follow by sampling, so that figures show what they
would show of a real run. `write_run` writes the folder of a run; `text`, where given, stands for
what came from the web: a domain, tokens and labels.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from fake_maps import write_maps
from fake_predictions import write_predictions

from deepseemoe.config import RunConfig
from deepseemoe.report.names import Trained, trained_dictionaries
from deepseemoe.runtime.files import write_json
from deepseemoe.runtime.seeds import generator
from deepseemoe.runtime.tables import Column, write_table

TEXTS = {
    "encyclopedia": "the city of northern river was founded in century by king and people",
    "fiction": "she said softly that night and the door opened while rain fell on him",
    "law": "the court held that section defendant shall be liable under statute of",
    "maths": "let x be prime then there exists such that sum equals zero for all n",
    "medicine": "patients received mg daily dose of treatment and were observed for weeks",
    "python": "def return self import for in if not None class raise ValueError (",
}
DOMAINS = tuple(TEXTS)
WORDS = [[f" {word}" for word in text.split()] for text in TEXTS.values()]
N_TEST = 262_144
N_DOCUMENTS = 1600
N_CONTEXTS = 300


def small_config(**changes) -> RunConfig:
    """Return the configuration of a run of 4 layers of 8 experts, 2 dictionaries, 2 windows."""
    return RunConfig.model_validate({"name": "fake", "windows": ["L00-L01", "L01-L02"], **changes})


def large_config() -> RunConfig:
    """Return the configuration of a run of the size of gpt-oss-20b: 24 layers of 32 experts."""
    windows = [f"L{first:02d}-L{first + 2:02d}" for first in range(0, 24, 3)]
    size = {"d_dict": 4096, "k": 64, "n_tokens": 40_000_000}
    return RunConfig.model_validate(
        {
            "name": "large",
            "windows": windows,
            "model": {"source": "hub", "name": "openai/gpt-oss-20b"},
            "dictionaries": {"crosscoder": size, "transcoder": {"kind": "transcoder", **size}},
        }
    )


def write_run(
    root: Path,
    run: RunConfig,
    *,
    n_layers: int = 4,
    n_experts: int = 8,
    top_k: int = 2,
    text: str | None = None,
) -> Path:
    """Write the tables of a run to `root` and return it."""
    rng = generator(run.seed, "fake run")
    raw_LE = rng.gamma(9, size=(n_layers, n_experts)) ** 1.2
    share_LE = np.minimum(raw_LE / raw_LE.sum(1, keepdims=True) * top_k, 0.95)
    _write_corpus(root, rng, text)
    if run.model.source == "nanomoe":
        _write_model(root / "model", rng)
    _write_load(root / "routing", share_LE, top_k)
    _write_domains(root / "routing", rng, share_LE, text)
    _write_coactivation(root / "routing", rng, share_LE)
    _write_vocabulary(root / "routing", rng, share_LE, text)
    for one in trained_dictionaries(run):
        config = run.dictionaries[one.dictionary]
        _write_dictionary(root / "dictionary" / one.dictionary / str(one.window), rng, one, config)
        n_active_F = _write_features(root, rng, one, config, text)
        shift = int(config.kind == "crosscoder")
        layers = [n + shift for n in one.window.layers if n + shift < n_layers]
        shares = {layer: share_LE[layer] for layer in layers}
        folder = root / "experts" / one.dictionary / str(one.window)
        write_maps(folder, rng, save, n_active_F, shares)
        _write_labels(root, rng, one, n_active_F, layers, n_experts, text)
        folder = root / "prediction" / one.dictionary / str(one.window)
        write_predictions(folder, generator(run.seed, "fake predictions"), layers)
    return root


def save(path: Path, columns, manifest=None) -> None:
    """Write columns, lists or arrays, with the types that arrow sees in them."""
    arrays = {name: pa.array(values) for name, values in columns.items()}
    documented = tuple(Column(name, array.type, "", name) for name, array in arrays.items())
    write_table(path, documented, arrays, manifest or {})


def save_rows(path: Path, names: str, rows: list[tuple]) -> None:
    """Write rows as columns with the names in `names`, a text with spaces between."""
    save(path, dict(zip(names.split(), map(list, zip(*rows, strict=True)), strict=True)))


def _write_corpus(root, rng, text):
    reasons = ["kept", "too_short", "duplicate", "language"]
    reason = rng.choice(reasons, N_DOCUMENTS, p=[0.86, 0.05, 0.05, 0.04])
    is_kept = reason == "kept"
    split = rng.choice(["train", "select", "test"], N_DOCUMENTS, p=[0.73, 0.09, 0.18])
    domain = rng.choice(DOMAINS, N_DOCUMENTS, p=[0.3, 0.2, 0.08, 0.07, 0.1, 0.25]).tolist()
    ids = (np.cumsum(is_kept) - 1).tolist()
    columns = {
        "doc_id": [number if kept else None for number, kept in zip(ids, is_kept, strict=True)],
        "domain": [text if text and name == "python" else name for name in domain],
        "n_tokens": (rng.gamma(2, 400, N_DOCUMENTS) * is_kept).astype(int),
        "split": np.where(is_kept, split, None).tolist(),
        "reason": reason.tolist(),
    }
    save(root / "corpus/documents.parquet", columns)


def _write_model(folder, rng):
    steps = np.arange(0, 500, 5)
    noise = rng.normal(0, 1, (2, len(steps)))
    columns = {
        "step": steps,
        "n_tokens": steps * 4096,
        "loss": 2.9 + 5.4 * np.exp(-steps / 60) + 0.06 * noise[0],
        "balance_loss": 1 + 0.4 * np.exp(-steps / 30) + 0.008 * noise[1],
        "learning_rate": 2e-3 * np.minimum(1, steps / 25),
    }
    save(folder / "training.parquet", columns)


def _write_load(folder, share_LE, top_k):
    layer, expert = (grid.ravel() for grid in np.indices(share_LE.shape))
    share = share_LE.ravel()
    columns = {
        "layer": layer,
        "expert": expert,
        "n_tokens": (share * N_TEST).astype(int),
        "share": share,
        "weight_share": share / top_k,
        "load": share * share_LE.shape[1] / top_k,
    }
    save(folder / "load.parquet", columns)


def _write_domains(folder, rng, share_LE, text):
    """Write shares by domain: deeper layers prefer more."""
    names = [*DOMAINS[:-1], text or DOMAINS[-1]]
    rows = []
    for layer, share_E in enumerate(share_LE):
        strength = 0.15 + 0.5 * layer / len(share_LE)
        lift_ED = np.exp(rng.normal(0, strength, (len(share_E), len(names))))
        for (expert, place), lift in np.ndenumerate(lift_ED):
            share = min(share_E[expert] * lift, 0.98)
            numbers = (share, share / share_E[expert], 0.94 * share, 1.06 * share)
            rows.append((layer, expert, names[place], int(share * N_TEST / len(names)), *numbers))
    columns = "layer expert domain n_tokens share lift share_lo share_hi"
    save_rows(folder / "domains.parquet", columns, rows)


def _write_coactivation(folder, rng, share_LE):
    """Write pairs of experts with teams in every layer."""
    rows = []
    for layer, share_E in enumerate(share_LE):
        n = len(share_E)
        team = rng.integers(0, max(2, n // 4), n)
        lift_EE = 0.8 * np.exp(rng.normal(0, 0.1, (n, n)) + 0.5 * (team[:, None] == team))
        lift_EE = np.sqrt(lift_EE * lift_EE.T)
        for (a, b), lift in np.ndenumerate(lift_EE):
            if a != b:
                p = min(share_E[b] * lift, 1)
                rows.append((layer, a, b, int(p * share_E[a] * N_TEST), p, p / share_E[b]))
    columns = "layer expert_a expert_b n_tokens p_b_given_a lift"
    save_rows(folder / "coactivation.parquet", columns, rows)


def _write_vocabulary(folder, rng, share_LE, text):
    words = [text or " zebra", *sorted(sum(WORDS, [])), "\n", "\t", "$x$"]
    rows = []
    for layer, share_E in enumerate(share_LE):
        for token_id, word in enumerate(words):
            for expert in rng.choice(len(share_E), 3, replace=False).tolist():
                p = float(np.clip(share_E[expert] * rng.uniform(0.5, 6), 0, 1))
                n_tokens = int(rng.integers(10, 4000))
                rows.append((layer, expert, token_id, word, n_tokens, p, p / share_E[expert]))
    columns = "layer expert token_id token n_tokens p_expert_given_token lift"
    save_rows(folder / "vocabulary.parquet", columns, rows)


def _write_dictionary(folder, rng, one, config):
    end = (0.1 if config.kind == "crosscoder" else 0.2) + 0.012 * one.window.first
    steps = np.linspace(0, 4000, 120).astype(int)
    fvu = (end + (1 - end) * np.exp(-steps / 350)) * np.exp(rng.normal(0, 0.04, len(steps)))
    columns = {
        "step": steps,
        "n_tokens": steps * 1024,
        "loss": fvu * 2,
        "fvu": fvu,
        "l0": config.k * (1 + rng.normal(0, 0.01, len(steps))),
        "dead_fraction": 0.3 * np.exp(-(((steps - 1200) / 900) ** 2)) + 0.03,
    }
    save(folder / "training.parquet", columns)
    metrics = {
        "fvu": [end * (1 + 0.15 * place) for place in range(len(one.window.layers))],
        "layers": list(one.window.layers),
        "l0": config.k * rng.uniform(0.93, 1.06),
        "k": config.k,
        "dead_fraction": rng.uniform(0, 0.06),
        "loss_recovered": 1 - end * 0.4,
        "router_agreement": 1 - end * 1.2,
    }
    write_json(folder / "metrics.json", metrics)


def _write_features(root, rng, one: Trained, config, text):
    """Write densities and contexts; return on how many tokens each feature fires."""
    folder = root / "features" / one.dictionary / str(one.window)
    weight_F = 10 ** rng.normal(-2.4, 0.6, config.d_dict) * (rng.random(config.d_dict) > 0.05)
    density_F = np.minimum(weight_F * config.k / weight_F.sum(), 0.6)
    n_active_F = np.round(density_F * N_TEST).astype(int)
    peak_F = rng.gamma(6, 0.8, config.d_dict) * (n_active_F > 0)
    columns = {
        "feature": np.arange(config.d_dict),
        "n_active": n_active_F,
        "density": n_active_F / N_TEST,
        "max_activation": peak_F,
    }
    save(folder / "density.parquet", columns)
    rows = []
    for feature in np.argsort(-n_active_F)[:N_CONTEXTS].tolist():
        for rank in range(4):
            group = "top" if rank < 3 else "random"
            context = _context(rng, feature, peak_F[feature] * (1 - 0.08 * rank), text)
            rows.append((feature, "explain", group, rank, int(rng.integers(1200)), 24, *context))
    columns = "feature half group rank doc_id peak tokens activations"
    save_rows(folder / "examples.parquet", columns, rows)
    return n_active_F


def _context(rng, feature, peak, text):
    words = WORDS[feature % len(WORDS)]
    tokens = [words[place] for place in rng.integers(len(words), size=33)]
    tokens[10], tokens[18] = "\n", text or "\t"
    activations = np.zeros(33)
    activations[22:27] = rng.uniform(0, 0.35, 5) * peak
    activations[24] = peak
    return tokens, activations.tolist()


def _write_labels(root, rng, one, n_active_F, layers, n_experts, text):
    folder = root / "labels" / one.dictionary / str(one.window)
    features = np.flatnonzero(n_active_F >= 10)
    labels = [text or _label(feature) for feature in features.tolist()]
    save(folder / "features.parquet", {"feature": features, "label": labels})
    accuracy = 0.5 + 0.5 * rng.beta(3, 1.6, len(features))
    columns = {
        "feature": features,
        "scorer": ["execution"] * len(features),
        "balanced_accuracy": [None, *accuracy[1:].tolist()],
        "lo": [None, *(accuracy[1:] - 0.1).tolist()],
        "hi": [None, *np.minimum(accuracy[1:] + 0.08, 1).tolist()],
        "lift": [None, *(accuracy[1:] - 0.503).tolist()],
        "n_failed": np.zeros(len(features), int),
    }
    save(folder / "scores.parquet", columns, {"null": {"execution": {"mean": 0.503}}})
    rows = [
        (
            layer,
            expert,
            text or ", ".join(["of"] + [w.strip() for w in WORDS[expert % 6][:3]]),
            False,
        )
        for layer in layers
        for expert in range(n_experts)
    ]
    save_rows(folder / "experts.parquet", "layer expert label is_shared", rows)


def _label(feature):
    words = WORDS[feature % len(WORDS)]
    word = words[feature // 7 % len(words)]
    kinds = (f"the token ‘{word}’", f"after ‘{word}’", f"text of {DOMAINS[feature % 6]}")
    return kinds[feature // 3 % 3]
