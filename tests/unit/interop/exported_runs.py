"""The folder of a run whose features, contexts, labels and maps are made by hand."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "features"))
from feature_world import SEQUENCE, make_text, write_shards

N_FEATURES = 12
WINDOW = "L02-L03"
LABELLED = {0: "rivers", 1: "see https://a.example/x or ann@b.example", 2: "numbers", 4: "verbs"}
"""Feature 3 is unclear, the others were never labelled; 2 has no score."""


def make_run(root, *, text=None, is_new=True, window=WINDOW):
    """Write results/river and return the folder of its dictionary and its text."""
    text = text or make_text(n_features=N_FEATURES)
    run = root / "results" / "river"
    part = Path("sae") / window
    dictionary = run / "dictionary" / part
    dictionary.mkdir(parents=True)
    described = {"kind": "crosscoder", "reads": "resid_post", "writes": "resid_post"}
    described |= {"d_dict": text.d_dict, "d_model": 8, "window": window}
    (dictionary / "config.json").write_text(json.dumps(described))
    config = {
        "name": "river",
        "corpus": {
            "source": "files", "dataset": "x/y", "text_key": "text", "sequence_length": SEQUENCE,
            "n_tokens": {"test": text.n_tokens},
        },
        "model": {"source": "hub", "name": "some/Big-MoE.5"},
        "labels": {"labeller": "openai"},
    }  # fmt: skip
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    features = run / "features" / part
    features.mkdir(parents=True)
    write_shards(features, text, n_shards=3)
    _write_features(features, text, is_new=is_new)
    _write_labels(run / "labels" / part, is_new=is_new)
    _write_reads(run / "experts" / part)
    return dictionary, text


def _write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def _write_features(folder, text, *, is_new):
    matrix = text.matrix.tocsc()
    highest = matrix.max(axis=0).toarray().ravel()
    density = np.diff(matrix.indptr) / text.n_tokens
    _write(
        folder / "density.parquet",
        [
            {"feature": f, "density": float(density[f]), "max_activation": float(highest[f])}
            for f in range(text.d_dict)
        ],
    )
    rows = []
    for feature in range(text.d_dict):
        own = matrix[:, [feature]].toarray().ravel()
        order = np.argsort(-own)[:6]
        for rank, place in enumerate(order[own[order] > 0].tolist()):
            group = "top" if rank < 3 else f"q{rank - 3}"
            rows.append(_context(text, own, feature, group, rank, place))
        if rows and rows[-1]["feature"] == feature:
            rows.append(rows[-1] | {"group": "q9"})  # drawn twice
            silent = int(np.flatnonzero(own == 0)[100])
            for group in ("near", "neighbour", "random"):
                rows.append(_context(text, own * 0, feature, group, 0, silent))
    if is_new:
        rows = [row | {"half": "explain" if row["rank"] % 2 else "score"} for row in rows]
        _write(
            folder / "neighbours.parquet",
            [
                {"feature": f, "rank": r, "neighbour": (f + r + 1) % N_FEATURES, "cosine": cosine}
                for f in range(text.d_dict)
                for r, cosine in enumerate((0.5, 0.4))
            ],
        )  # fmt: skip
    _write(folder / "examples.parquet", rows)


def _context(text, own, feature, group, rank, place):
    first, stop = max(place - 4, 0), min(place + 3, text.n_tokens)
    tokens = [f" w{token}" for token in text.token_ids[first:stop].tolist()]
    if feature == 1:
        tokens[1:3] = [" ann", "@b.example"]
    return {
        "feature": feature, "group": group, "rank": rank, "doc_id": int(text.doc_ids[place]),
        "place": place, "peak": place - first, "tokens": tokens,
        "token_ids": text.token_ids[first:stop].tolist(),
        "activations": own[first:stop].astype(float).tolist(),
    }  # fmt: skip


def _write_labels(folder, *, is_new):
    rows = [
        {"feature": f, "label": label, "kind": "model", "detail": "", "labeller": "judge-7b"}
        for f, label in LABELLED.items()
    ]
    rows.append(rows[0] | {"feature": 3, "label": "a guess", "kind": "unclear"})
    if is_new:
        rows = [r | {"status": "labelled", "tier": "A", "reason": ""} for r in rows]
        rows.append(rows[-1] | {"feature": 5})  # no clear rule, though nothing failed
        rows[-2] |= {"status": "refused", "kind": "model"}
    _write(folder / "features.parquet", rows)
    scores = [
        {"feature": f, "scorer": scorer, "balanced_accuracy": 0.8, "n_failed": 1}
        | ({"lift": 0.25, "null": 0.55, "auroc": None} if is_new else {})
        for f in (0, 1, 4)
        for scorer in ("detection", "fuzzing")
    ]
    scores.append(scores[0] | {"feature": 2, "balanced_accuracy": None})
    if is_new:
        scores.append(
            scores[-1] | {"feature": 4, "scorer": "embedding", "lift": None, "auroc": 0.9}
        )
        scores[-2]["lift"] = None
    _write(folder / "scores.parquet", scores)


def _write_reads(folder):
    rows = [
        {"layer": 3, "expert": e, "feature": f, "q": q, "lor": lor, "lor_lo": lor - 1, "tier": tier}
        for e, f, q, lor, tier in [
            (5, 0, 0.01, 3.0, "C"),
            (7, 0, 0.01, 2.0, "A"),
            (6, 0, 0.01, -2.0, "A"),
            (7, 4, 0.01, 2.0, "B"),
            (2, 2, 0.90, 2.0, "C"),
        ]
    ]
    _write(folder / "reads.parquet", rows)
