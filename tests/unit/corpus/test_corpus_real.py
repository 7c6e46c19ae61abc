"""The stage on real DCLM-shaped shards and on labelled text; skipped where there are none."""

from collections import Counter

from corpus_sources import run_stage

from deepseemoe.config.corpus import CorpusConfig
from deepseemoe.corpus.documents import domains_of
from deepseemoe.corpus.listing import list_files
from deepseemoe.corpus.readers import Keys, read_documents

SIZES = {"train": 32_768, "select": 4096, "test": 8192}


def dclm(data, **config) -> dict:
    return {"source": "files", "paths": (str(data / "dclm_schema"),), **config}


def test_old_shards_are_never_listed_and_all_frames_are_read(data):
    files = list_files(CorpusConfig(**dclm(data)))
    assert len(files) == 4
    assert not [file for file in files if "_old" in file.name]
    n_rows = [sum(1 for _ in read_documents(file, Keys("text"))) for file in files]
    assert n_rows == [414, 500, 500, 20]  # the first file has four frames


def test_dclm_scores_drop_documents_for_their_reasons(data, tmp_path):
    filters = {"language": "en", "min_quality_score": 0.05, "max_chars": 4000, "max_rows": 500}
    packed = run_stage(
        tmp_path,
        **dclm(data, filters=filters, n_tokens=SIZES, global_shards=[1]),
        tokenizer={"vocab_size": 1024},
        sequence_length=128,
        shard_tokens=8192,
    )
    reasons = Counter(row["reason"] for row in packed.rows)
    assert {"kept", "language", "quality", "too_long"} <= set(reasons)
    assert all(row["n_chars"] <= 4000 for row in packed.rows if row["reason"] == "kept")
    assert {row["file"].split("/")[0] for row in packed.rows} == {"global-shard_01_of_10"}


def test_labelled_text_keeps_its_domains(data, tmp_path):
    packed = run_stage(
        tmp_path,
        source="files",
        paths=(str(data / "domains"),),
        domains=("math", "law", "drama"),
        filters={"max_rows": 600},
        n_tokens=SIZES,
        tokenizer={"vocab_size": 1024},
        sequence_length=128,
        shard_tokens=8192,
    )
    assert domains_of(packed.folder / "documents.parquet").names == ("drama", "law", "math")
