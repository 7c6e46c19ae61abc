"""Neuronpedia's import layout, from the tables of a run: contexts, densities, labels and scores.

    {model}/{source}/release.jsonl model.jsonl sourceset.jsonl source.jsonl
    {model}/{source}/features/batch-N.jsonl.gz             one row a feature, 1,024 features a batch
    {model}/{source}/activations/batch-N.jsonl.gz          contexts of the same features
    {model}/{source}/explanations/batch-N.jsonl.gz         those that stand
    {model}/{source}/explanation_scores/batch-N.jsonl.gz   their scores
    config/*.jsonl                                         the types and authors that these name

Folders as in SAEDashboard's neuronpedia_export.py and neuronpedia's export-data.py and its route
api/admin/import. That route parses the first line of a file, so no file is empty; scores go in by
api/admin/import-file, table ExplanationScore. Not tried on a running instance.

One source is one window: features of a crosscoder belong to all layers of it, and the id begins
with the first, where Neuronpedia looks for a number. URLs and mail addresses are cut out of texts.
A batch is all that is held.
"""

import gzip
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseemoe.interop import neuronpedia_rows as rows
from deepseemoe.interop.called_experts import Called, called_experts
from deepseemoe.interop.descriptions import Description, descriptions
from deepseemoe.interop.firing_contexts import Context, context_batches, short
from deepseemoe.interop.run_folder import RunFolder
from deepseemoe.labels.asking.redact import MARKS, redact
from deepseemoe.runtime.files import write_text
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.tables import read_table

logger = logging.getLogger(__name__)

BATCH = 1024
"""Features of one file, as in export-data.py."""
LEVEL = 5
"""Of gzip, as in SAEDashboard."""

README = """# {name} {window} for Neuronpedia

Written by DeepSeeMoE from run `{run}`: {n_features} features, {n_activations} contexts,
{n_explanations} explanations.

- `{model_id}/{source_id}` is one source. Import it by Neuronpedia's route `api/admin/import` from a
  bucket that holds this folder as `v1/`; first add the lines of `config/` to those of the bucket's
  `v1/config/`, since explanations refer to them. `explanation_scores/` goes in by
  `api/admin/import-file` with the table ExplanationScore. None of this was tried on an instance.
- The owner of every row is `{creator}`, Neuronpedia's own for bulk imports.
- Explanations are those that the run calls labelled. A score is the lift over permuted labels where
  the run has one, else balanced accuracy; its type says which, `jsonDetails` has the whole row.
- Experts that features call stand in `notes` of source and explanations: no column holds routing.
- Contexts are the highest ones and draws from quantiles; `binMin` and `binMax` of a draw are the
  lowest and highest peak among those drawn for that feature. URLs and mail addresses are cut out.
- Empty, since a run does not measure them or they need the model: logits, histograms, vectors,
  correlated neurons. Dates are the database's.
"""


def write(run: RunFolder, folder: Path, *, model: str | None, n_layers: int | None = None) -> None:
    """Write one dictionary and window into an empty folder.

    Raises ValueError where the run has not labelled its features yet, or lacks another table.
    """
    run.file("labels", "features.parquet", "label_features")
    examples = run.file("features", "examples.parquet", "collect_examples")
    density = run.file("features", "density.parquet", "collect_examples")
    source = source_of(run, model)
    home = folder / source.model_id / source.source_id
    called = called_experts(run.optional("experts", "reads.parquet"))
    labelled = {one.feature: one for one in descriptions(run)}
    _write_about(run, source, home, model=model, n_layers=n_layers, notes=called.summary)
    _write_config(folder / "config", run, [*labelled.values()])
    table = read_table(density, ["feature", "density", "max_activation"]).to_pydict()
    neighbours = _neighbours(run)
    n_activations, progress = 0, Progress("neuronpedia", run.d_dict, unit="features")
    contexts = context_batches(examples, BATCH)
    batch = next(contexts, None)
    for number, first in enumerate(range(0, run.d_dict, BATCH)):
        own = range(first, min(first + BATCH, run.d_dict))
        features = [_feature(source, table, feature, neighbours) for feature in own]
        write_rows(home / "features" / f"batch-{number}.jsonl.gz", features)
        if batch is not None and batch[0] == number:
            activations = list(_activations(source, batch[1]))
            n_activations += len(activations)
            write_rows(home / "activations" / f"batch-{number}.jsonl.gz", activations)
            batch = next(contexts, None)
        known = [labelled[feature] for feature in own if feature in labelled]
        _write_explanations(home, number, source, run, known, called)
        progress.advance(len(own))
    logger.info("%d contexts, %d explanations", n_activations, len(labelled))
    text = README.format(
        name=run.name, window=run.window, run=run.run, n_features=run.d_dict,
        n_activations=n_activations, n_explanations=len(labelled), creator=rows.CREATOR,
        **source._asdict(),
    )  # fmt: skip
    write_text(folder / "README.md", text)


def source_of(run: RunFolder, model: str | None) -> rows.Source:
    """Return the names of a dictionary and window, in the letters that Neuronpedia allows."""
    name = run.model(model).split("/")[-1].lower()
    model_id = re.sub(r"[^a-z0-9._-]", "-", name)
    set_name = f"{run.run}-{run.name}"
    window = f"__{run.window}".lower() if len(run.window.layers) > 1 else ""
    source_id = f"{run.window.first}-{set_name}{window}"
    return rows.Source(model_id, source_id, set_name, f"deepseemoe-{run.run}")


def write_rows(path: Path, written: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines, gzipped where the name says so; no file where there are none."""
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in written]
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    data = ("\n".join(lines) + "\n").encode()
    # No name and no time in the header, so that the same rows give the same bytes.
    path.write_bytes(gzip.compress(data, LEVEL, mtime=0) if path.suffix == ".gz" else data)


def _write_about(
    run: RunFolder,
    source: rows.Source,
    home: Path,
    *,
    model: str | None,
    n_layers: int | None,
    notes: str,
) -> None:
    """Write the four files that say what the source is."""
    described, corpus = run.described, run.config["corpus"]
    own = run.config["model"]
    told = n_layers or (0 if own["source"] == "hub" else own["architecture"]["n_layers"])
    what = (
        f"{described['kind']} of {run.d_dict} features, reads {described['reads']}, writes "
        f"{described['writes']}, layers {run.window} counted from 0"
    )
    n_test, length = corpus["n_tokens"]["test"], corpus["sequence_length"]
    about = {
        "release": rows.release_row(source, f"Run {run.run} of DeepSeeMoE"),
        "model": rows.model_row(
            source, name=run.model(model), d_model=described["d_model"], n_layers=told
        ),
        "sourceset": rows.sourceset_row(source, f"{run.name}: {what}"),
        "source": rows.source_row(
            source,
            dataset=corpus["dataset"] if corpus["source"] == "dclm" else corpus["source"],
            n_prompts=n_test // length,
            n_tokens=length,
            notes=f"{what}. {notes}".strip(),
        ),
    }
    for name, row in about.items():
        write_rows(home / f"{name}.jsonl", [row])


def _write_config(folder: Path, run: RunFolder, known: Sequence[Description]) -> None:
    """Write the rows that explanations and scores refer to, in the files of `exports/config`."""
    authors = sorted({one.labeller for one in known})
    scores = sorted(
        {_score_type(score.scorer, score.measure) for one in known for score in one.scores}
    )
    types = [rows.type_row(_type(run), "a description by DeepSeeMoE, docs/labels.md")]
    written = {
        "explanation_type": types if known else [],
        "explanation_model_type": [rows.author_row(name) for name in authors],
        "explanation_score_type": [
            rows.type_row(name, "a score by DeepSeeMoE, docs/labels.md") for name in scores
        ],
        "explanation_score_model": [rows.author_row(name) for name in authors if scores],
    }
    for name, own in written.items():
        write_rows(folder / f"{name}.jsonl", own)


def _type(run: RunFolder) -> str:
    return f"deepseemoe_{run.config['labels']['labeller']}"


def _score_type(scorer: str, measure: str) -> str:
    return f"deepseemoe_{scorer}_{measure.replace(' ', '-')}"


def _feature(
    source: rows.Source,
    table: Mapping[str, Sequence[Any]],
    feature: int,
    neighbours: Mapping[int, list[tuple[int, float]]],
) -> rows.Row:
    """Return the row of a feature; density.parquet has one for every feature, in order."""
    row = rows.feature_row(
        source,
        feature,
        density=table["density"][feature],
        highest=short(table["max_activation"][feature]),
    )
    near = neighbours.get(feature, [])
    row["topkCosSimIndices"] = [other for other, _ in near]
    row["topkCosSimValues"] = [short(cosine) for _, cosine in near]
    return row


def _neighbours(run: RunFolder) -> dict[int, list[tuple[int, float]]]:
    """Return the nearest features of each by decoder cosine, where the run has looked for them."""
    path = run.optional("features", "neighbours.parquet")
    found: dict[int, list[tuple[int, float]]] = {}
    if path.is_file():
        table = read_table(path).sort_by([("feature", "ascending"), ("rank", "ascending")])
        for feature, other, cosine in zip(
            *(table[name].to_pylist() for name in ("feature", "neighbour", "cosine")), strict=True
        ):
            found.setdefault(feature, []).append((other, cosine))
    return found


def _activations(source: rows.Source, contexts: Sequence[Context]) -> Iterator[rows.Row]:
    """Yield the rows of contexts, highest peak first within a feature."""
    peaks: dict[tuple[int, str], list[float]] = {}
    for context in contexts:
        peaks.setdefault((context.feature, context.group), []).append(context.peak)
    n_quantiles = Counter(feature for feature, group in peaks if group != "top")
    for context in sorted(contexts, key=lambda one: (one.feature, -one.peak, one.place)):
        own = peaks[context.feature, context.group]
        interval = rows.Bin(-1.0, max(own), -1.0)
        if context.group != "top":
            interval = rows.Bin(min(own), max(own), short(1 / n_quantiles[context.feature]))
        tokens, values = redact(context.tokens, context.values, tuple(MARKS))
        yield rows.activation_row(
            source,
            context.feature,
            key=source.key("activation", context.feature, context.place),
            doc_id=context.doc_id,
            tokens=tokens,
            values=values,
            interval=interval,
        )


def _write_explanations(
    home: Path,
    number: int,
    source: rows.Source,
    run: RunFolder,
    known: Sequence[Description],
    called: Called,
) -> None:
    """Write explanations of a batch of features and their scores."""
    explanations, scores = [], []
    for one in known:
        scored = [f"{s.scorer}: {s.measure} {s.value:.3f}" for s in one.scores]
        notes = "; ".join([*scored, *filter(None, [called.by_feature.get(one.feature)])])
        explanations.append(
            rows.explanation_row(
                source, one.feature, text=one.label, type_name=_type(run), author=one.labeller,
                notes=notes,
            )
        )  # fmt: skip
        scores += [
            rows.score_row(
                source, one.feature, type_name=_score_type(score.scorer, score.measure),
                author=one.labeller, value=score.value, details=_details(score.row),
            )
            for score in one.scores
        ]  # fmt: skip
    write_rows(home / "explanations" / f"batch-{number}.jsonl.gz", explanations)
    write_rows(home / "explanation_scores" / f"batch-{number}.jsonl.gz", scores)


def _details(row: Mapping[str, Any]) -> str:
    """Return a row of scores.parquet as JSON; what is no number is null there."""
    plain = {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in row.items()
    }
    return json.dumps(plain, ensure_ascii=False)
