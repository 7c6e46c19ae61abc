"""A text whose tokens are sent to experts by known rules, or by chance, as the files of a run.

Each token has four slots, so rules of different slots know nothing of each other:

    slot 0  TOKENS go to expert 0, others to expert 1
    slot 1  documents of the domain code go to expert 2, others to expert 3
    slot 2  where a feature of CALLERS fires to expert 4, others to expert 5
    slot 3  experts 6 to 9 by chance

A twentieth of the tokens of the first three slots go to the other expert.
"""

import numpy as np
import pyarrow as pa
import pytest
from label_world import DOMAINS, ID, make_reading
from planted_shards import PlantedFeatures, PlantedStore
from safetensors.numpy import save_file
from scipy import sparse
from test_label_features import write_tokenizer

from deepseemoe.config import LabelsConfig, RoutingConfig
from deepseemoe.labels import expert_text
from deepseemoe.labels.experts import label_experts
from deepseemoe.routing import tabulate
from deepseemoe.runtime.files import write_json
from deepseemoe.runtime.tables import Column, read_table, write_table

LAYER = 2
N_EXPERTS, RANDOM = 10, (6, 7, 8, 9)
TOKENS = (" def", " class", " of", " the", ",")
CALLERS = (0, 1, 2)
N_FEATURES = 12
NOISE = 0.05


class ExpertWorld:
    """The text, who is sent where, and the truth of each planted rule."""

    def __init__(self, seed=0, n_tokens=40_000, noise=NOISE):
        rng = np.random.default_rng([seed, 5])
        self.reading = reading = make_reading(n_tokens=n_tokens, seed=seed)
        n = len(reading.token_ids)
        fires_TF = (rng.random((n, N_FEATURES)) < 0.1) & reading.is_valid[:, None]
        self.features_TF = sparse.csr_array(fires_TF * rng.gamma(3, 1, fires_TF.shape))
        self.holds = {
            0: np.isin(reading.token_ids, [ID[text] for text in TOKENS]),
            2: reading.domains == DOMAINS.index("code"),
            4: fires_TF[:, list(CALLERS)].any(1),
        }
        noisy = [mask ^ (rng.random(n) < noise) for mask in self.holds.values()]
        slots = [np.where(m, e, e + 1) for m, e in zip(noisy, self.holds, strict=True)]
        slots.append(rng.choice(RANDOM, n))
        order = np.argsort(rng.random((n, 4)), axis=1)
        self.experts_TK = np.take_along_axis(np.stack(slots, 1), order, 1).astype(np.uint8)
        weights = np.sort(rng.random((n, 4)), axis=1)[:, ::-1]
        self.weights_TK = (weights / weights.sum(1, keepdims=True)).astype(np.float16)

    def sent_to(self, expert):
        """Return (T,): the valid tokens that were sent to an expert."""
        return (self.experts_TK == expert).any(1) & self.reading.is_valid

    def shards(self, n):
        """Return doubles of n feature shards and stores; cuts fall anywhere."""
        reading = self.reading
        edges = np.linspace(0, len(reading.token_ids), n + 1).astype(int)
        parts = [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        arrays = {
            "token_id": reading.token_ids.astype(np.uint32),
            "doc_id": reading.doc_ids.astype(np.uint32),
            "position": reading.positions.astype(np.uint32),
            "is_valid": reading.is_valid.astype(np.uint8),
            f"expert_ids/L{LAYER:02d}": self.experts_TK,
            f"expert_weights/L{LAYER:02d}": self.weights_TK,
        }
        names = ("doc_id", "is_valid", "token_id", "position")
        features = [
            PlantedFeatures(self.features_TF[p].tocsr(), *(arrays[name][p] for name in names))
            for p in parts
        ]
        stores = [PlantedStore({k: v[p] for k, v in arrays.items()}, 3) for p in parts]
        return [one._replace(is_valid=one.is_valid.astype(bool)) for one in features], stores


class ExpertRun:
    """The files of a run on the world; `label` runs the stage on them."""

    def __init__(self, folder, world, *, n_shards=2, tier="A"):
        self.folder, self.world = folder, world
        self.features, self.stores = world.shards(n_shards)
        write_tokenizer(folder / "tokenizer")
        names = np.full(world.reading.doc_ids.max() + 1, "", object)
        names[world.reading.doc_ids] = np.array(DOMAINS, object)[world.reading.domains]
        columns = Column("doc_id", pa.uint32(), "", ""), Column("domain", pa.string(), "", "")
        values = {"doc_id": np.arange(len(names)), "domain": list(names)}
        write_table(folder / "documents.parquet", columns, values, {})
        self.files = {"documents": folder / "documents.parquet", "tokenizer": folder / "tokenizer"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tabulate, "ActivationStore", self.stores.__getitem__)
            tables = {name: folder / f"{name}.parquet" for name in tabulate.TABLES}
            config = RoutingConfig(min_token_count=5, n_bootstrap=100)
            tabulate.tabulate_routing(
                config, stores=range(n_shards), **self.files, tables=tables, seed=0
            )
        pairs = [(4, f, 2.0, 1e-9, f + 1, tier) for f in CALLERS] + [(4, 9, -1.0, 1e-9, 9, "C")]
        self.write_reads(pairs)
        write_json(folder / "summary.json", {"layers": [LAYER]})
        labels = {"feature": [0, 9], "label": ["token “x”", "no clear rule"],
                  "kind": ["token", "unclear"]}  # fmt: skip
        types = {"feature": pa.uint32(), "label": pa.string(), "kind": pa.string()}
        columns = tuple(Column(name, kind, "", "") for name, kind in types.items())
        write_table(folder / "features.parquet", columns, labels, {})
        rng = np.random.default_rng(1)
        save_file({"decoder": rng.normal(size=(N_FEATURES, 2, 64)).astype(np.float32)},
                  folder / "weights.safetensors")  # fmt: skip

    def write_reads(self, pairs):
        """Write reads.parquet of rows (expert, feature, lor, q, rank, tier)."""
        types = {"layer": pa.uint16(), "expert": pa.uint16(), "feature": pa.uint32(),
                 "lor": pa.float32(), "q": pa.float32(), "rank": pa.uint32(),
                 "tier": pa.string()}  # fmt: skip
        columns = tuple(Column(name, kind, "", "") for name, kind in types.items())
        rows = [dict(zip(types, (LAYER, *pair), strict=True)) for pair in pairs]
        write_table(self.folder / "reads.parquet", columns, rows, {})

    def label(self, config=None, **changes):
        """Call the stage with doubles behind its paths; return both tables as rows."""
        out = {name: self.folder / f"{name}.parquet" for name in ("experts", "expert_scores")}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(expert_text, "ActivationStore", self.stores.__getitem__)
            patch.setattr(expert_text.FeatureShard, "open", self.features.__getitem__)
            label_experts(
                config or LabelsConfig(),
                reads=self.folder / "reads.parquet",
                summary=self.folder / "summary.json",
                feature_labels=self.folder / "features.parquet",
                routing=self.folder,
                shards=range(len(self.features)),
                stores=range(len(self.stores)),
                weights=self.folder / "weights.safetensors",
                experts=out["experts"],
                scores=out["expert_scores"],
                seed=0,
                **self.files,
                **changes,
            )
        experts = {row["expert"]: row for row in read_table(out["experts"]).to_pylist()}
        scores = {
            (row["expert"], row["scorer"]): row
            for row in read_table(out["expert_scores"]).to_pylist()
        }
        return experts, scores
