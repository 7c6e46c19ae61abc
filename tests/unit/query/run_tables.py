"""The tables of a run of two layers of three experts, with every number set by hand."""

from pathlib import Path

import pyarrow as pa

from deepseemoe.features.schemas import DENSITY, EXAMPLES
from deepseemoe.labels.schemas import EXPERTS, FEATURES, SCORES
from deepseemoe.routing.schemas import DOMAINS, LOAD, VOCABULARY
from deepseemoe.runtime.tables import Column, write_table

NASTY = "a\x1b[31mred\u202ebackwards\n"
"""What a token of the web may hold: it colours a terminal and turns the line around."""

PAIR = tuple(
    Column(name, kind, "", name)
    for name, kind in {
        "layer": pa.uint16(), "expert": pa.uint16(), "feature": pa.uint32(), "n_both": pa.int64(),
        "lor": pa.float32(), "lor_lo": pa.float32(), "lor_hi": pa.float32(), "lift": pa.float32(),
        "q": pa.float64(), "rank": pa.uint32(),
    }.items()
)  # fmt: skip
CAUSAL = (
    Column("causal_dp", pa.float32(), "share", "what the router does without the feature"),
    Column("tier", pa.string(), "", "A, B or C"),
    Column("is_token", pa.bool_(), "", "explained by the token"),
)
CONTRAST = tuple(
    Column(name, kind, "", name)
    for name, kind in {
        "layer": pa.uint16(), "expert": pa.uint16(), "feature": pa.uint32(),
        "contrast": pa.float32(), "contrast_lo": pa.float32(), "contrast_hi": pa.float32(),
    }.items()
)  # fmt: skip


def row(**columns):
    """Return a row of a table."""
    return columns


def write_small_run(root: Path) -> Path:
    """Write the tables and return their folder: a crosscoder with causal columns, a transcoder."""
    _write_routing(root / "routing")
    _write_dictionary(root, "crosscoder", PAIR + CAUSAL, {"causal_dp": 0.25, "tier": "A"})
    _write_dictionary(root, "transcoder", PAIR, {})
    rows = [row(layer=1, expert=2, feature=1, contrast=1.5, contrast_lo=1.0, contrast_hi=2.0)]
    write_table(root / "experts/transcoder/L00-L01/writes.parquet", CONTRAST, rows, {})
    return root


def _write_routing(folder: Path) -> None:
    load = [
        row(layer=n, expert=e, n_tokens=10 * (e + 1), share=0.1, weight_share=0.2, load=0.3)
        for n in (0, 1)
        for e in range(3)
    ]
    write_table(folder / "load.parquet", LOAD, load, {})
    domain = row(layer=1, n_tokens=5, share_lo=0.1, share_hi=0.9)
    rows = [
        domain | row(expert=2, domain="law", share=0.5, lift=2.0),
        domain | row(expert=2, domain="code", share=0.1, lift=0.5),
    ]
    write_table(folder / "domains.parquet", DOMAINS, rows, {})
    token = row(layer=1, expert=2, n_tokens=12, p_expert_given_token=0.9)
    rows = [
        token | row(token_id=7, token=" Court", lift=3.0),
        token | row(token_id=8, token=NASTY, lift=2.0),
    ]
    write_table(folder / "vocabulary.parquet", VOCABULARY, rows, {})


def _write_dictionary(root: Path, name: str, columns, more) -> None:
    of = Path(name, "L00-L01")
    pair = row(layer=1, n_both=20, lift=2.0, q=1e-9)
    rows = [
        pair | row(expert=2, feature=1, lor=2.0, lor_lo=1.5, lor_hi=2.5, rank=1) | more,
        pair | row(expert=2, feature=0, lor=1.0, lor_lo=0.5, lor_hi=1.5, rank=2) | more,
        pair | row(expert=0, feature=1, lor=-1.0, lor_lo=-2.0, lor_hi=-0.5, rank=1),
    ]
    rows[0] |= {"is_token": True} if more else {}
    write_table(root / "experts" / of / "reads.parquet", columns, rows, {})
    _write_features(root / "features" / of)
    label = row(kind="token", detail="{}", n_active=30, labeller="rules")
    rows = [label | row(feature=0, label="the word court"), label | row(feature=1, label=NASTY)]
    write_table(root / "labels" / of / "features.parquet", FEATURES, rows, {})
    score = row(scorer="execution", n_positive=9, n_negative=9, lo=0.7, hi=0.9, n_failed=0)
    rows = [score | row(feature=feature, balanced_accuracy=0.8) for feature in (0, 1)]
    write_table(root / "labels" / of / "scores.parquet", SCORES, rows, {})
    expert = row(made_for=None, share=0.1, top_domain="law", domain_lift=2.0, kind="token",
                 tier="A", status="labelled", reason="", detail="{}", n_features=1, n_clusters=1,
                 clusters_by_chance=1.0, labeller="rules")  # fmt: skip
    rows = [
        expert | row(layer=1, expert=2, is_shared=False, label="law: court", features=[1],
                     tokens=["Court"]),
        expert | row(layer=1, expert=0, is_shared=True, label="shared: court", features=[1],
                     tokens=[]),
    ]  # fmt: skip
    write_table(root / "labels" / of / "experts.parquet", EXPERTS, rows, {})


def _write_features(folder: Path) -> None:
    density = row(n_active=30, density=0.1, mean_activation=1.0, max_activation=2.0, n_documents=9)
    rows = [density | {"feature": feature} for feature in range(3)]
    write_table(folder / "density.parquet", DENSITY, rows, {})
    rows = [
        row(feature=1, half="score", group=group, rank=0, doc_id=0, place=5, peak=1, tokens=["the ", NASTY, "x"],
             token_ids=[1, 8, 2], activations=[0.0, 2.0, 0.0])
        for group in ("top", "random")
    ]  # fmt: skip
    write_table(folder / "examples.parquet", EXAMPLES, rows, {})
