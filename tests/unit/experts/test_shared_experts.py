"""Shared experts: their part of the output and what they write, against a model of known parts."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from deepseemoe.experts.schemas import SHARED
from deepseemoe.experts.shared import SharedOutput, write_shared
from deepseemoe.labels.shared_experts import describe_shared
from deepseemoe.runtime.tables import Column, read_table, write_table

WIDTH, N_FEATURES, LOUD = 16, 6, 3
DOMAINS = ("code", "law", "verse")


@pytest.fixture(scope="module")
def text():
    """60 documents of three domains, tokens of 30 types, features that fire by chance."""
    rng = np.random.default_rng(0)
    document_T = np.repeat(np.arange(60), rng.integers(30, 90, 60))
    token_T = rng.integers(0, 30, document_T.size)
    fires_TF = sp.csr_array((rng.random((document_T.size, N_FEATURES)) < 0.2).astype(np.float32))
    return document_T, token_T, fires_TF


@pytest.fixture(scope="module")
def table(text, tmp_path_factory):
    """Shared experts are thrice as loud in code, twice at token LOUD, and write feature 4."""
    document_T, token_T, fires_TF = text
    rng = np.random.default_rng(1)
    directions_FD = np.eye(N_FEATURES, WIDTH)
    scale_T = np.where(document_T % 3 == 0, 3.0, 1.0) * np.where(token_T == LOUD, 2.0, 1.0)
    shared_TD = rng.normal(size=(document_T.size, WIDTH)) * scale_T[:, None]
    shared_TD += 2.0 * fires_TF.toarray()[:, [4]] * directions_FD[4]
    routed_TD = rng.normal(size=shared_TD.shape)
    directions = torch.from_numpy(directions_FD).float()
    outputs = [
        SharedOutput(1, np.arange(N_FEATURES), directions),
        SharedOutput(2, np.arange(0), None),
    ]
    for part in np.array_split(np.arange(document_T.size), 7):
        for output in outputs:
            output.add(
                document_T[part],
                token_T[part],
                fires_TF[part],
                shared_TD=torch.from_numpy(shared_TD[part]),
                routed_TD=torch.from_numpy(routed_TD[part]),
                written_TD=torch.from_numpy(shared_TD[part]),
            )
    n_feature = np.asarray((fires_TF > 0).sum(0)).ravel()
    folder = tmp_path_factory.mktemp("shared")
    columns = [outputs[0].columns(n_feature, 0.95), outputs[1].columns(n_feature[:0], 0.95)]
    write_shared(folder / "shared.parquet", columns, {"n_shared_experts": 2})
    parts = np.linalg.norm(shared_TD, axis=1)
    return folder, parts / (parts + np.linalg.norm(routed_TD, axis=1))


def rows(table, kind, layer=1):
    found = read_table(table[0] / "shared.parquet").to_pylist()
    return {row["item"]: row for row in found if row["kind"] == kind and row["layer"] == layer}


def test_parts_are_means_over_documents_and_tokens(text, table):
    document_T, token_T, _ = text
    assert [c.name for c in SHARED] == read_table(table[0] / "shared.parquet").column_names
    for kind, item_T in (("document", document_T), ("token", token_T)):
        found = rows(table, kind)
        assert sorted(found) == sorted(set(item_T.tolist()))
        for item, row in found.items():
            assert row["value"] == pytest.approx(table[1][item_T == item].mean())
            assert row["n_tokens"] == (item_T == item).sum()
    assert rows(table, "token")[LOUD]["lo"] > table[1].mean()


def test_the_planted_feature_is_what_is_written(table):
    found = rows(table, "feature")
    assert found[4]["lo"] > 1.5
    assert max(row["value"] for item, row in found.items() if item != 4) < 0.5
    assert not rows(table, "feature", layer=2), "no direction at that layer"


def test_a_description_tells_what_is_planted(table):
    folder, part_T = table
    columns = (
        Column("doc_id", read_table(folder / "shared.parquet").schema.field("item").type, "", ""),
        Column("domain", read_table(folder / "shared.parquet").schema.field("kind").type, "", ""),
    )
    values = {"doc_id": np.arange(60), "domain": [DOMAINS[n % 3] for n in range(60)]}
    write_table(folder / "documents.parquet", columns, values, {})
    first, second = describe_shared(
        folder / "shared.parquet",
        documents=folder / "documents.parquet",
        vocabulary=[f" t{n}" for n in range(30)],
        names={4: "token “x”"},
    )
    assert first["label"].startswith(
        f"2 shared experts: every token, {part_T.mean():.0%} of the block's output · most in code"
    )
    assert first["label"].endswith("largest at “t3” · writes F00004 token “x”")
    assert (first["layer"], first["is_shared"], first["features"]) == (1, True, [4])
    assert first["tokens"] == [" t3"]
    assert second["features"] == []
    assert "window" in second["reason"]


def test_a_model_without_shared_experts_gives_an_empty_table(tmp_path):
    write_shared(tmp_path / "shared.parquet", [], {"n_shared_experts": 0})
    assert read_table(tmp_path / "shared.parquet").num_rows == 0
    assert (
        describe_shared(tmp_path / "shared.parquet", documents=tmp_path, vocabulary=[], names={})
        == []
    )
