"""A planted world, and the corpus files that tables of its routing name."""

import numpy as np
import planted
import pytest
from tokenizers import Tokenizer, models

from deepseemoe.corpus.documents import DOCUMENT_COLUMNS
from deepseemoe.runtime.tables import write_table

N_DOCUMENTS, FIRST_ID = 60, 100  # planted shards number documents from 100


@pytest.fixture(scope="session")
def world():
    return planted.world(2, n_documents=N_DOCUMENTS, n_features=40, n_experts=8, n_layers=2)


@pytest.fixture(scope="session")
def files(world, tmp_path_factory):
    """The corpus' own files: a tokenizer of 600 words, and documents of six domains."""
    folder = tmp_path_factory.mktemp("corpus")
    vocabulary = {f"w{n}": n for n in range(600)}
    Tokenizer(models.WordLevel(vocabulary, unk_token="w0")).save(str(folder / "tokenizer.json"))
    blank = {column.name: None for column in DOCUMENT_COLUMNS}
    domains = [0] * FIRST_ID + world.domain_D.tolist()
    rows = [blank | {"doc_id": n, "domain": f"domain{d}"} for n, d in enumerate(domains)]
    write_table(folder / "documents.parquet", DOCUMENT_COLUMNS, rows, {})
    return {"documents": folder / "documents.parquet", "tokenizer": folder}


@pytest.fixture(scope="session")
def chosen_TLE(world):
    chosen = np.zeros((world.token_T.size, 2, 8), bool)
    np.put_along_axis(chosen, world.experts_TLK.astype(int), True, axis=2)
    return chosen
