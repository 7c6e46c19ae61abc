"""Columns of the tables that this stage writes."""

import pyarrow as pa

from deepseemoe.runtime.tables import Column, Columns

DENSITY: Columns = (
    Column("feature", pa.uint32(), "id", "feature of the dictionary; every feature has a row"),
    Column("n_active", pa.int64(), "tokens", "valid test tokens on which the feature fires"),
    Column("density", pa.float64(), "share", "n_active over the valid test tokens"),
    Column("mean_activation", pa.float64(), "raw z", "mean over tokens where it fires; 0 if none"),
    Column("max_activation", pa.float64(), "raw z", "highest activation; 0 where it never fires"),
    Column("n_documents", pa.int64(), "documents", "test documents in which the feature fires"),
)

NEIGHBOURS: Columns = (
    Column("feature", pa.uint32(), "id", "feature of the dictionary; every feature has 16 rows"),
    Column("rank", pa.int32(), "rank", "from 0, the nearest first"),
    Column("neighbour", pa.uint32(), "id", "the other feature"),
    Column(
        "cosine",
        pa.float32(),
        "cosine",
        "of both decoder rows, the layers of a window one after the other; to six digits",
    ),
)

EXAMPLES: Columns = (
    Column("feature", pa.uint32(), "id", "feature of the dictionary that fires on the test text"),
    Column(
        "half",
        pa.string(),
        "name",
        "`explain`: of the documents that descriptions are made from; `score`: of those that they "
        "are judged on. No document is in both",
    ),
    Column(
        "group",
        pa.string(),
        "name",
        "`top`: highest peaks, distinct documents first; `q0`, `q1` …: of the other peaks, drawn "
        "from their quantiles, weakest first. The feature is off in the whole context of the rest. "
        "`near`: the peak is a token on which it fires elsewhere; `neighbour`: a peak of one of "
        "the nearest features; `random`: any token, in the half `score` alone",
    ),
    Column(
        "rank",
        pa.int32(),
        "rank",
        "place in the group from 0; by falling peak where the feature fires",
    ),
    Column("doc_id", pa.uint32(), "id", "document of the context"),
    Column("place", pa.int64(), "token", "place of the peak token in the concatenated test text"),
    Column("peak", pa.int32(), "token", "index of the peak token inside the context"),
    Column("tokens", pa.list_(pa.string()), "text", "readable text of each token"),
    Column("token_ids", pa.list_(pa.uint32()), "id", "the tokens"),
    Column("activations", pa.list_(pa.float32()), "raw z", "activation of the feature on each"),
)
