"""The folder of a finished run whose routers are planted: what the stages would have written."""

import json
from pathlib import Path

import numpy as np
import yaml
from compared_routers import chosen, route, shares_by_group, text

from deepseemoe.labels.schemas import FEATURES
from deepseemoe.routing.schemas import DOMAINS, LOAD, VOCABULARY
from deepseemoe.runtime.seeds import generator
from deepseemoe.runtime.tables import arrow_schema, write_table

GROUPS = ("code", "law", "news", "prose")
PER_GROUP = 6
"""Features of each domain; each fires on three of ten of its domain's tokens."""

READS = ("layer", "expert", "feature", "p_e_given_f", "p_e", "lor", "lor_lo", "lor_hi", "q")


def write_planted_run(
    folder: Path, *, n_experts, top_k, strength, experts_of=None, domains=GROUPS, n_layers=1, seed=0
) -> Path:
    """Write a run of one map; `experts_of` permutes the groups that experts serve."""
    routing: dict[str, list] = {"load": [], "domains": [], "vocabulary": [], "reads": []}
    for layer in range(n_layers):
        groups_T, documents_T = text(len(GROUPS), n_documents=30, n_tokens=80)
        ids_TK = route(
            groups_T, documents_T, n_groups=len(GROUPS), n_experts=n_experts, top_k=top_k,
            strength=strength, whim=0.2, seed=seed + layer,
        )  # fmt: skip
        if experts_of is not None:
            ids_TK = np.asarray(experts_of)[ids_TK]
        table_TE = chosen(ids_TK, n_experts)
        _add(routing, layer, table_TE, groups_T, documents_T, domains, seed)
    for name, columns in {"load": LOAD, "domains": DOMAINS, "vocabulary": VOCABULARY}.items():
        write_table(folder / f"routing/{name}.parquet", columns, routing[name], {})
    _write_map(folder, routing["reads"])
    config = {
        "name": folder.name, "windows": ["L00-L00"], "dictionaries": {"sae": {}},
        "model": {"source": "nanomoe", "name": None, "expert_domains": []},
        **{stage: {"format": 1} for stage in ("routing", "labels")},
        "experts": {"format": 1, "confidence": 0.95},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def _add(routing, layer, table_TE, groups_T, documents_T, domains, seed):
    share_E = table_TE.mean(0)
    n_experts = share_E.size
    for e, share in enumerate(share_E):
        row = {"layer": layer, "expert": e, "n_tokens": int(table_TE[:, e].sum())}
        routing["load"].append(row | {"share": share, "weight_share": 0.0, "load": 0.0})
    share_CE, error_CE = shares_by_group(table_TE, groups_T, documents_T)
    for (c, e), share in np.ndenumerate(share_CE if domains else np.zeros((0, n_experts))):
        routing["domains"].append({
            "layer": layer, "expert": e, "domain": domains[c],
            "n_tokens": int(table_TE[groups_T == c, e].sum()), "share": share,
            "lift": share / max(share_E[e], 1e-9),
            "share_lo": share - 1.96 * error_CE[c, e], "share_hi": share + 1.96 * error_CE[c, e],
        })  # fmt: skip
    rng = generator(seed, "tokens", layer)
    types_T = rng.integers(0, 50, groups_T.size) * len(GROUPS) + groups_T
    for token in np.unique(types_T):
        own_TE = table_TE[types_T == token]
        for e in np.flatnonzero(own_TE.sum(0)):
            routing["vocabulary"].append({
                "layer": layer, "expert": int(e), "token_id": int(token), "token": str(token),
                "n_tokens": int(own_TE[:, e].sum()), "p_expert_given_token": own_TE[:, e].mean(),
                "lift": 1.0,
            })  # fmt: skip
    for feature in range(PER_GROUP * len(GROUPS)):
        fires_T = (groups_T == feature // PER_GROUP) & (rng.random(groups_T.size) < 0.3)
        routing["reads"] += _pairs(layer, feature, fires_T, table_TE)


def _pairs(layer, feature, fires_T, table_TE):
    """Return the pairs of a feature, with the error of the log odds ratio of a 2 x 2 table."""
    on_E, off_E = table_TE[fires_T].sum(0), table_TE[~fires_T].sum(0)
    cells = np.stack([on_E, fires_T.sum() - on_E, off_E, (~fires_T).sum() - off_E]) + 0.5
    lor_E = np.log(cells[0] * cells[3] / cells[1] / cells[2])
    half_E = 1.96 * np.sqrt((1 / cells).sum(0))
    for e, lor in enumerate(lor_E.tolist()):
        yield {
            "layer": layer, "expert": e, "feature": feature, "lor": lor,
            "p_e_given_f": on_E[e] / fires_T.sum(), "p_e": table_TE[:, e].mean(),
            "lor_lo": lor - half_E[e], "lor_hi": lor + half_E[e],
            "q": 0.001 if abs(lor) > half_E[e] else 0.5,
        }  # fmt: skip


def _write_map(folder, reads):
    from deepseemoe.experts.schemas import READS as WRITTEN

    columns = tuple(column for column in WRITTEN if column.name in READS)
    assert {c.name for c in columns} == set(READS), "the map that stages write has other columns"
    assert arrow_schema(columns)
    write_table(folder / "experts/sae/L00-L00/reads.parquet", columns, reads, {})
    labels = [
        {
            "feature": f, "label": f"domain {GROUPS[f // PER_GROUP]}", "kind": "domain",
            "detail": json.dumps({"rule": {"kind": "domain", "domains": [GROUPS[f // PER_GROUP]]}}),
            "n_active": 99, "labeller": "rules", "status": "labelled",
        }
        for f in range(PER_GROUP * len(GROUPS))
    ]  # fmt: skip
    write_table(folder / "labels/sae/L00-L00/features.parquet", FEATURES, labels, {})
