"""JSON lines for Neuronpedia have every field that its tools write, and the numbers of the run.

FIELDS are the dataclasses of sae_dashboard/neuronpedia/neuronpedia_export.py of jbloomAus/
SAEDashboard (commit 3ea1249ac0e31c3f8433c6c270c40d4e3bec9169), and for explanations those of
utils/neuronpedia-utils of hijohnnylin/neuronpedia (db_models/explanation.py, in the fork zazer0/
neuronpedia, commit ab1e24c), whose `triggeredById` is `triggeredByUserId` in schema.prisma (commit
008d504). `imported` does what importJsonlString of apps/webapp/lib/db/import.ts (commit efd6e35)
does before it asks Postgres: lines of the file, columns by the keys of the first.
"""

import gzip
import json

import pytest
from exported_runs import LABELLED, N_FEATURES, make_run
from feature_world import SEQUENCE

from deepseemoe.cli import main
from deepseemoe.interop import neuronpedia
from deepseemoe.interop.exporting import export_dictionary

LEFT_TO_THE_DATABASE = {"createdAt", "updatedAt"}
FIELDS = {
    "activations": "id tokens index layer modelId maxValue maxValueTokenIndex minValue values "
    "creatorId dataSource dataIndex dfaValues dfaTargetIndex dfaMaxValue createdAt lossValues "
    "logitContributions binMin binMax binContains qualifyingTokenIndex zIndices zValues",
    "features": "modelId layer index creatorId createdAt maxActApprox hasVector vector vectorLabel "
    "vectorDefaultSteerStrength hookName topkCosSimIndices topkCosSimValues "
    "neuron_alignment_indices neuron_alignment_values neuron_alignment_l1 "
    "correlated_neurons_indices correlated_neurons_pearson correlated_neurons_l1 "
    "correlated_features_indices correlated_features_pearson correlated_features_l1 neg_str "
    "neg_values pos_str pos_values frac_nonzero freq_hist_data_bar_heights "
    "freq_hist_data_bar_values logits_hist_data_bar_heights logits_hist_data_bar_values "
    "decoder_weights_dist sourceSetName",
    "model": "id instruct creatorId displayNameShort displayName tlensId dimension visibility "
    "defaultSourceSetName defaultSourceId inferenceEnabled layers neuronsPerLayer createdAt owner "
    "updatedAt website",
    "source": "id modelId setName creatorId hasDashboards inferenceEnabled inferenceHosts "
    "saelensConfig saelensRelease saelensSaeId hfRepoId hfFolderId visibility defaultOfModelId "
    "hasUmap hasUmapLogSparsity hasUmapClusters num_prompts num_tokens_in_prompt dataset notes "
    "createdAt",
    "release": "name description creatorName creatorId visibility isNewUi featured "
    "descriptionShort urls creatorEmail creatorNameShort defaultSourceSetName defaultSourceId "
    "defaultUmapSourceIds createdAt",
    "sourceset": "modelId name creatorId hasDashboards visibility description type creatorName "
    "urls creatorEmail releaseName defaultOfModelId defaultRange defaultShowBreaks showDfa "
    "showCorrelated showHeadAttribution showUmap createdAt",
    "explanations": "id modelId layer index description authorId embedding triggeredByUserId "
    "typeName explanationModelName notes createdAt",
    "explanation_scores": "id initiatedByUserId value explanationId explanationScoreTypeName "
    "explanationScoreModelName jsonDetails createdAt",
}
SOURCE = "big-moe.5/2-river-sae__l02-l03"


def exported(tmp_path, **options):
    dictionary, text = make_run(tmp_path, **options)
    export_dictionary(dictionary, format="neuronpedia", folder=tmp_path / "out")
    return tmp_path / "out", text


def imported(path):
    """Return the rows of a file as the importer takes them; all have the keys of the first."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    rows = [json.loads(line) for line in text.strip().split("\n")]
    assert all(list(row) == list(rows[0]) for row in rows)
    return rows


def rows_of(folder, table):
    home = folder / SOURCE
    single = home / f"{table}.jsonl"
    files = [single] if single.is_file() else sorted((home / table).glob("batch-*.jsonl.gz"))
    return [row for file in files for row in imported(file)]


@pytest.mark.parametrize("table", FIELDS)
@pytest.mark.parametrize("is_new", [True, False])
def test_rows_have_every_field_of_the_tool_and_no_other(tmp_path, table, is_new):
    folder, _ = exported(tmp_path, is_new=is_new)
    rows = rows_of(folder, table)
    assert rows
    assert set(rows[0]) == set(FIELDS[table].split()) - LEFT_TO_THE_DATABASE


def test_names_hang_together(tmp_path):
    folder, text = exported(tmp_path)
    (model,), (source,), (group,), (release,) = (
        rows_of(folder, table) for table in ("model", "source", "sourceset", "release")
    )
    assert f"{model['id']}/{source['id']}" == SOURCE
    assert source["setName"] == group["name"]
    assert group["releaseName"] == release["name"]
    assert release["defaultSourceId"] == source["id"]
    assert (source["num_prompts"], source["num_tokens_in_prompt"]) == (30, SEQUENCE)
    assert source["num_prompts"] * SEQUENCE == text.n_tokens
    assert int(source["id"].split("-")[0]) == 2  # the webapp reads the layer there
    for table in ("features", "activations", "explanations"):
        for row in rows_of(folder, table):
            assert (row["modelId"], row["layer"]) == (model["id"], source["id"])


def test_a_window_of_one_layer_is_named_as_their_sources_are(tmp_path):
    folder, _ = exported(tmp_path, window="L07-L07")
    assert (folder / "big-moe.5/7-river-sae/source.jsonl").is_file()


def test_every_feature_has_a_row_with_its_density_and_neighbours(tmp_path):
    folder, text = exported(tmp_path)
    rows = rows_of(folder, "features")
    assert [row["index"] for row in rows] == [str(f) for f in range(N_FEATURES)]
    dense = text.matrix.toarray()
    for f, row in enumerate(rows):
        assert row["frac_nonzero"] == pytest.approx((dense[:, f] > 0).mean())
        assert row["maxActApprox"] == pytest.approx(dense[:, f].max(), rel=1e-3)
    assert rows[3]["topkCosSimIndices"] == [4, 5]
    assert rows[3]["topkCosSimValues"] == [0.5, 0.4]


@pytest.mark.parametrize("is_new", [True, False])
def test_contexts_are_those_that_fire_once_each_with_a_value_for_every_token(tmp_path, is_new):
    folder, text = exported(tmp_path, is_new=is_new)
    rows = rows_of(folder, "activations")
    dense = text.matrix.toarray()
    highest = [min(6, int((dense[:, f] > 0).sum())) for f in range(N_FEATURES)]
    assert [sum(row["index"] == str(f) for row in rows) for f in range(N_FEATURES)] == highest
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert len(row["id"]) == 25
        assert len(row["values"]) == len(row["tokens"])
        assert row["maxValue"] == row["values"][row["maxValueTokenIndex"]] == max(row["values"]) > 0
        assert row["minValue"] == min(row["values"])
        assert row["binMin"] <= row["maxValue"] or row["binContains"] == -1
    top = [row["maxValue"] for row in rows if row["index"] == "0"]
    assert top == sorted(top, reverse=True)
    assert top[0] == pytest.approx(dense[:, 0].max(), rel=1e-3)


def test_only_labels_that_stand_are_explanations(tmp_path):
    for is_new in (True, False):
        folder, _ = exported(tmp_path / str(is_new), is_new=is_new)
        rows = {int(row["index"]): row for row in rows_of(folder, "explanations")}
        assert set(rows) == set(LABELLED)
        assert rows[0]["description"] == "rivers"
        assert rows[0]["explanationModelName"] == "judge-7b"


def test_the_number_published_is_the_lift_where_the_run_has_one(tmp_path):
    for is_new, name, value in [(True, "lift", 0.25), (False, "balanced-accuracy", 0.8)]:
        folder, _ = exported(tmp_path / name, is_new=is_new)
        scores = rows_of(folder, "explanation_scores")
        if name == "lift":
            other = scores.pop()
            assert (other["explanationScoreTypeName"], other["value"]) == (
                "deepseemoe_embedding_auroc",
                0.9,
            )
        assert {row["value"] for row in scores} == {value}
        types = {row["explanationScoreTypeName"] for row in scores}
        assert types == {f"deepseemoe_{scorer}_{name}" for scorer in ("detection", "fuzzing")}
        known = {row["id"]: row for row in rows_of(folder, "explanations")}
        assert {int(known[row["explanationId"]]["index"]) for row in scores} == {0, 1, 4}
        assert json.loads(scores[0]["jsonDetails"])["n_failed"] == 1


def test_what_rows_refer_to_stands_in_config(tmp_path):
    folder, _ = exported(tmp_path)
    names = {
        path.stem: {row["name"] for row in imported(path)} for path in (folder / "config").iterdir()
    }
    explanations, scores = rows_of(folder, "explanations"), rows_of(folder, "explanation_scores")
    assert {row["typeName"] for row in explanations} <= names["explanation_type"]
    assert {r["explanationModelName"] for r in explanations} <= names["explanation_model_type"]
    assert {r["explanationScoreTypeName"] for r in scores} <= names["explanation_score_type"]
    assert {r["explanationScoreModelName"] for r in scores} <= names["explanation_score_model"]


def test_experts_that_a_feature_calls_stand_in_notes(tmp_path):
    folder, _ = exported(tmp_path)
    (source,) = rows_of(folder, "source")
    assert "L03.E7 by 2, L03.E5 by 1." in source["notes"]
    notes = {int(row["index"]): row["notes"] for row in rows_of(folder, "explanations")}
    assert notes[0].endswith("calls L03.E7 (tier A), L03.E5 (tier C)")
    assert "calls" not in notes[2], "q .9 calls nobody"


def test_no_url_and_no_mail_address_is_written(tmp_path):
    folder, _ = exported(tmp_path)
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            text = gzip.decompress(data) if path.suffix == ".gz" else data
            assert b"b.example" not in text, path
            assert b"https://a" not in text, path
    row = next(row for row in rows_of(folder, "activations") if row["index"] == "1")
    assert "⟨mail⟩" in "".join(row["tokens"])


def test_batches_cut_features_and_have_no_empty_file(tmp_path, monkeypatch):
    monkeypatch.setattr(neuronpedia, "BATCH", 5)
    folder, _ = exported(tmp_path)
    home = folder / SOURCE
    found = {
        table: [path.name.split(".")[0] for path in sorted((home / table).iterdir())]
        for table in ("features", "activations", "explanations")
    }
    assert found["features"] == found["activations"] == ["batch-0", "batch-1", "batch-2"]
    assert found["explanations"] == ["batch-0"]
    own = {row["index"] for row in imported(home / "activations/batch-1.jsonl.gz")}
    assert own == {str(feature) for feature in range(5, 10)}
    assert len(rows_of(folder, "features")) == N_FEATURES


def test_the_same_run_gives_the_same_bytes(tmp_path):
    (first, _), (second, _) = exported(tmp_path / "a"), exported(tmp_path / "b")
    names = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    assert len(names) == 13
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("labels/sae/L02-L03/features.parquet", "not made yet; run `snakemake label_features`"),
        ("features/sae/L02-L03/examples.parquet", "run `snakemake collect_examples` of run river"),
        ("config.yaml", "the run has no config.yaml"),
        ("dictionary/sae/L02-L03/config.json", "no dictionary, it has no config.json"),
    ],
)
def test_what_a_run_lacks_is_one_line_and_nothing_is_left(tmp_path, capsys, missing, line):
    dictionary, _ = make_run(tmp_path)
    (tmp_path / "results/river" / missing).unlink()
    call = ["export", str(dictionary), "--to", "neuronpedia", "--out", str(tmp_path / "out")]
    assert main(call) == 1
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_dictionary_outside_of_a_run_is_refused(tmp_path):
    dictionary, _ = make_run(tmp_path)
    alone = dictionary.rename(tmp_path / "L02-L03")
    for format in ("neuronpedia", "delphi"):
        with pytest.raises(ValueError, match="stands in no run; name results/RUN/dictionary"):
            export_dictionary(alone, format=format, folder=tmp_path / "out")
