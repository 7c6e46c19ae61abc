"""A plausible run, made from a seed: every table that the report reads, with a planted map.

Each routing layer has experts that some features call; the tables follow from that by sampling, so
that the figures show what they would show of a real run. `write_run` writes the folder of the run.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.special import expit, logit
from scipy.stats import false_discovery_control, norm

from deepseemoe.config import RunConfig
from deepseemoe.report.names import trained_dictionaries
from deepseemoe.runtime.files import write_json
from deepseemoe.runtime.seeds import generator
from deepseemoe.runtime.tables import Column, write_table

DOMAINS = ("encyclopedia", "fiction", "law", "maths", "medicine", "python")
WORDS = {
    "encyclopedia": "the city of northern river was founded in century by king and people".split(),
    "fiction": "she said softly that night and the door opened while rain fell on him".split(),
    "law": "the court held that section defendant shall be liable under statute of".split(),
    "maths": "let x be prime then there exists such that sum equals zero for all n".split(),
    "medicine": "patients received mg daily dose of treatment and were observed for weeks".split(),
    "python": "def return self import for in if not None class raise ValueError (".split(),
}
N_TEST = 262_144
DTYPES = {"i": pa.int64(), "u": pa.int64(), "f": pa.float64(), "O": None, "U": pa.string()}


def small_config(**changes) -> RunConfig:
    """Return the configuration of a run with 4 layers of 8 experts, 2 dictionaries and 2 windows."""
    return RunConfig.model_validate({"name": "fake", "windows": ["L00-L01", "L01-L02"], **changes})


def large_config() -> RunConfig:
    """Return the configuration of a run of the size of gpt-oss-20b."""
    windows = [f"L{first:02d}-L{first + 2:02d}" for first in range(0, 24, 3)]
    return RunConfig.model_validate(
        {
            "name": "large",
            "windows": windows,
            "model": {"source": "hub", "name": "openai/gpt-oss-20b"},
            "dictionaries": {
                "crosscoder": {"d_dict": 4096, "k": 64, "n_tokens": 40_000_000},
                "transcoder": {"kind": "transcoder", "d_dict": 4096, "k": 64},
            },
        }
    )


def write_run(root: Path, run: RunConfig, *, n_layers=4, n_experts=8, top_k=2, label=None) -> Path:
    """Write the tables of a run to `root`; `label` replaces every text that came from the web."""
    rng = generator(run.seed, "fake run")
    share_LE = _shares(rng, n_layers, n_experts, top_k)
    _corpus(root, rng, run, label)
    _model(root, rng, run)
    _routing(root, rng, share_LE, top_k, label)
    for one in trained_dictionaries(run):
        config = run.dictionaries[one.dictionary]
        shift = int(config.kind == "crosscoder")
        layers = [n + shift for n in one.window.layers if n + shift < n_layers]
        _dictionary(root, rng, one, config)
        density_F, kinds = _features(root, rng, one, config, label)
        _experts(root, rng, one, density_F, share_LE, layers, config.kind)
        _labels(root, rng, one, density_F, kinds, layers, n_experts, label)
    return root


def _save(path: Path, manifest=None, **columns) -> None:
    """Write columns as a table, with types as numpy has them."""
    arrays = {name: np.asarray(values) if not isinstance(values, list) else values
              for name, values in columns.items()}  # fmt: skip
    documented = tuple(Column(name, _type(values), "", name) for name, values in arrays.items())
    write_table(path, documented, arrays, manifest or {})


def _type(values) -> pa.DataType:
    if isinstance(values, list):
        return pa.array(values).type
    return DTYPES[values.dtype.kind] or pa.string()


def _shares(rng, n_layers, n_experts, top_k):
    """Return the share of tokens that choose each expert; the shares of a layer sum to top_k."""
    raw = rng.gamma(9, size=(n_layers, n_experts)) ** 1.2
    return np.minimum(raw / raw.sum(1, keepdims=True) * top_k, 0.95)


def _corpus(root, rng, run, label):
    n = 1600
    reasons = rng.choice(["kept", "too short", "duplicate", "language"], n, p=[0.86, 0.05, 0.05, 0.04])
    kept = reasons == "kept"
    splits = np.where(kept, rng.choice(["train", "select", "test"], n, p=[0.73, 0.09, 0.18]), None)
    ids = np.where(kept, np.cumsum(kept) - 1, 0)
    domains = rng.choice(DOMAINS, n, p=[0.3, 0.2, 0.08, 0.07, 0.1, 0.25]).astype(object)
    if label:
        domains[domains == "python"] = label
    _save(
        root / "corpus/documents.parquet",
        doc_id=[int(i) if k else None for i, k in zip(ids, kept, strict=True)],
        name=[f"doc {i}" for i in range(n)],
        domain=list(domains),
        n_tokens=(rng.gamma(2, 400, n) * kept).astype(int),
        split=list(splits),
        reason=list(reasons.astype(object)),
    )


def _model(root, rng, run):
    if run.model.source != "nanomoe":
        return
    steps = np.arange(0, 500, 5)
    loss = 2.9 + 5.4 * np.exp(-steps / 60) + rng.normal(0, 0.06, len(steps))
    _save(
        root / "model/training.parquet",
        step=steps,
        n_tokens=steps * 4096,
        loss=loss,
        balance_loss=1 + 0.4 * np.exp(-steps / 30) + rng.normal(0, 0.008, len(steps)),
        learning_rate=2e-3 * np.minimum(1, steps / 25),
    )


def _routing(root, rng, share_LE, top_k, label):
    n_layers, n_experts = share_LE.shape
    layer, expert = (grid.ravel() for grid in np.indices(share_LE.shape))
    share = share_LE.ravel()
    _save(
        root / "routing/load.parquet",
        layer=layer,
        expert=expert,
        n_tokens=(share * N_TEST).astype(int),
        share=share,
        weight_share=share / top_k,
        load=share * n_experts / top_k,
    )
    _domains(root, rng, share_LE, label)
    _coactivation(root, rng, share_LE)
    _vocabulary(root, rng, share_LE, label)


def _domains(root, rng, share_LE, label):
    """Write domain shares: deeper layers prefer more, and each expert has a favourite."""
    n_layers, n_experts = share_LE.shape
    names = [*DOMAINS[:-1], label or DOMAINS[-1]]
    rows = []
    for layer in range(n_layers):
        strength = 0.15 + 0.5 * layer / n_layers
        lift_ED = np.exp(rng.normal(0, strength, (n_experts, len(names))))
        for expert in range(n_experts):
            for name, lift in zip(names, lift_ED[expert], strict=True):
                share = min(share_LE[layer, expert] * lift, 0.98)
                half = 0.06 * share
                lift = share / share_LE[layer, expert]
                n_tokens = int(share * N_TEST / len(names))
                rows.append((layer, expert, name, n_tokens, share, lift, share - half, share + half))
    names = ("layer", "expert", "domain", "n_tokens", "share", "lift", "share_lo", "share_hi")
    _save(root / "routing/domains.parquet", **_columns(names, rows))


def _columns(names, rows):
    return {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}


def _coactivation(root, rng, share_LE):
    rows = []
    for layer, share_E in enumerate(share_LE):
        n = len(share_E)
        team = rng.integers(0, max(2, n // 4), n)
        lift_EE = np.exp(rng.normal(0, 0.12, (n, n)) + 0.5 * (team[:, None] == team))
        lift_EE = np.sqrt(lift_EE * lift_EE.T)
        for a in range(n):
            for b in range(n):
                if a != b:
                    p = min(share_E[b] * lift_EE[a, b] * 0.8, 1)
                    rows.append((layer, a, b, int(p * share_E[a] * N_TEST), p, p / share_E[b]))
    names = ("layer", "expert_a", "expert_b", "n_tokens", "p_b_given_a", "lift")
    _save(root / "routing/coactivation.parquet", **_columns(names, rows))


def _vocabulary(root, rng, share_LE, label):
    words = [" " + word for name in DOMAINS for word in WORDS[name]] + ["\n", "\t", "$x$"]
    if label:
        words[0] = label
    rows = []
    for layer, share_E in enumerate(share_LE):
        for token_id, word in enumerate(words):
            for expert in rng.choice(len(share_E), 3, replace=False):
                p = float(np.clip(share_E[expert] * rng.uniform(0.5, 6), 0, 1))
                n_tokens = int(rng.integers(10, 4000))
                rows.append((layer, int(expert), token_id, word, n_tokens, p, p / share_E[expert]))
    names = ("layer", "expert", "token_id", "token", "n_tokens", "p_expert_given_token", "lift")
    _save(root / "routing/vocabulary.parquet", **_columns(names, rows))


def _dictionary(root, rng, one, config):
    folder = root / "dictionary" / one.dictionary / str(one.window)
    depth = one.window.first
    end = (0.1 if config.kind == "crosscoder" else 0.2) + 0.012 * depth
    steps = np.linspace(0, 4000, 120).astype(int)
    noise = np.exp(rng.normal(0, 0.04, len(steps)))
    fvu = (end + (1 - end) * np.exp(-steps / 350)) * noise
    _save(
        folder / "training.parquet",
        step=steps,
        n_tokens=steps * 1024,
        loss=fvu * 2,
        fvu=fvu,
        l0=config.k * (1 + rng.normal(0, 0.01, len(steps))),
        dead_fraction=0.3 * np.exp(-(((steps - 1200) / 900) ** 2)) + 0.03,
        auxk_loss=fvu * 1.1,
        learning_rate=np.full(len(steps), 5e-4),
        threshold=np.full(len(steps), 0.4),
    )
    write_json(
        folder / "metrics.json",
        {
            "fvu": [end * (1 + 0.15 * i) for i in range(len(one.window.layers))],
            "layers": list(one.window.layers),
            "l0": config.k * rng.uniform(0.93, 1.06),
            "k": config.k,
            "dead_fraction": rng.uniform(0, 0.06),
            "loss_recovered": 1 - end * 0.4,
            "kl_recovered": 1 - end * 0.5,
            "router_agreement": 1 - end * 1.2,
            "routing_kl": 0.03,
            "n_tokens": N_TEST,
        },
    )


def _features(root, rng, one, config, label):
    folder = root / "features" / one.dictionary / str(one.window)
    density_F = 10 ** rng.normal(-2.4, 0.6, config.d_dict) * (rng.random(config.d_dict) > 0.05)
    density_F = np.minimum(density_F * config.k / density_F.sum(), 0.6)
    n_active = np.round(density_F * N_TEST).astype(int)
    peak = rng.gamma(6, 0.8, config.d_dict) * (n_active > 0)
    _save(
        folder / "density.parquet",
        feature=np.arange(config.d_dict),
        n_active=n_active,
        density=n_active / N_TEST,
        mean_activation=peak * 0.3,
        max_activation=peak,
        n_documents=np.minimum(n_active, 250),
    )
    kinds = rng.choice(["token", "context", "domain"], config.d_dict)
    _examples(folder / "examples.parquet", rng, n_active, peak, label)
    return density_F, kinds


def _examples(path, rng, n_active, peak, label):
    rows = []
    for feature in np.flatnonzero(n_active > 20)[:400]:
        domain = DOMAINS[feature % len(DOMAINS)]
        for rank in range(5):
            words = list(rng.choice(WORDS[domain], 33))
            tokens = [" " + word for word in words]
            tokens[10], tokens[18] = "\n", label or "\t"
            activations = np.zeros(33)
            activations[24] = peak[feature] * (1 - 0.08 * rank)
            activations[22:27] += rng.uniform(0, 0.35, 5) * activations[24]
            rows.append(
                (int(feature), "top" if rank < 4 else "random", rank, 7, domain, 1000, 24, tokens,
                 list(range(33)), activations.tolist())  # fmt: skip
            )
    names = ("feature", "group", "rank", "doc_id", "domain", "place", "peak", "tokens", "token_ids",
             "activations")  # fmt: skip
    _save(path, **_columns(names, rows))


def _experts(root, rng, one, density_F, share_LE, layers, kind):
    folder = root / "experts" / one.dictionary / str(one.window)
    n_features, n_experts = len(density_F), share_LE.shape[1]
    home_F = rng.integers(n_experts, size=n_features)
    pull_F = np.where(rng.random(n_features) < 0.4, rng.gamma(4, 0.55, n_features), 0)
    tables = []
    for layer in layers:
        lor_FE = np.zeros((n_features, n_experts)) - 0.25 * pull_F[:, None]
        lor_FE[np.arange(n_features), (home_F + layer) % n_experts] = pull_F
        tables.append(_pairs(rng, layer, density_F, share_LE[layer], lor_FE))
    empty = _pairs(rng, 0, density_F[:0], share_LE[0], np.zeros((0, n_experts)))
    table = {name: np.concatenate([t[name] for t in tables or [empty]]) for name in empty}
    table["q"] = false_discovery_control(table["p_perm"]) if len(table["layer"]) else table["p_perm"]
    table["rank"] = np.argsort(np.argsort(-table["lor_lo"])) + 1
    _save(folder / "reads.parquet", **table)
    n_kept = int((table["q"] < 0.05).sum())
    write_json(folder / "summary.json", {"n_tested": len(table["q"]), "n_kept": n_kept,
               "layers": layers, "n_permutations": 200})  # fmt: skip
    if kind == "transcoder":
        _writes(folder / "writes.parquet", rng, table)


def _pairs(rng, layer, density_F, share_E, lor_FE):
    """Return the tested pairs of a layer: counts are drawn, estimates follow from the counts."""
    n_F = np.round(density_F * N_TEST).astype(int)
    feature, expert = np.nonzero((n_F[:, None] >= 50) & (n_F[:, None] * share_E >= 5))
    n, p_e, lor = n_F[feature], share_E[expert], lor_FE[feature, expert]
    effective = np.maximum(n // 6, 20)  # documents make tokens agree
    hits = rng.binomial(effective, expit(logit(p_e) + lor))
    p = (hits + 0.5) / (effective + 1)
    est = logit(p) - logit(p_e)
    se = np.sqrt(1 / (hits + 0.5) + 1 / (effective - hits + 0.5))
    z = (p - p_e) / np.sqrt(p_e * (1 - p_e) / effective)
    return {
        "layer": np.full(len(feature), layer), "expert": expert, "feature": feature, "n_feature": n,
        "n_documents": np.minimum(n, 250), "n_expert": (p_e * N_TEST).astype(int),
        "n_both": (p * n).astype(int), "expected": n * p_e, "p_e_given_f": p, "p_e": p_e,
        "lift": p / p_e, "lor": est, "lor_lo": est - 1.96 * se, "lor_hi": est + 1.96 * se,
        "rd": p - p_e, "rho": z / np.sqrt(N_TEST), "z_perm": z, "p_perm": 2 * norm.sf(np.abs(z)),
        "w_map": lor + rng.normal(0, 0.5, len(lor)),
    }  # fmt: skip


def _writes(path, rng, reads):
    rows = rng.permutation(len(reads["layer"]))[:500]
    contrast = rng.normal(0, 0.4, len(rows))
    _save(
        path,
        layer=reads["layer"][rows], expert=reads["expert"][rows], feature=reads["feature"][rows],
        n_both=reads["n_both"][rows], mean_on=contrast + 0.2, mean_off=np.full(len(rows), 0.2),
        contrast=contrast, contrast_lo=contrast - 0.2, contrast_hi=contrast + 0.2,
        share=rng.random(len(rows)),
    )  # fmt: skip


def _labels(root, rng, one, density_F, kinds, layers, n_experts, label):
    folder = root / "labels" / one.dictionary / str(one.window)
    features = np.flatnonzero(density_F * N_TEST >= 10)
    texts = [label or _label(kinds[f], f) for f in features]
    _save(
        folder / "features.parquet",
        feature=features,
        label=texts,
        kind=list(kinds[features]),
        detail=[f"fires on {t}" for t in texts],
        n_active=(density_F[features] * N_TEST).astype(int),
        labeller=["offline"] * len(features),
    )
    accuracy = np.clip(0.5 + 0.5 * rng.beta(3, 1.6, len(features)), 0, 1)
    _save(
        folder / "scores.parquet",
        {"null_balanced_accuracy": 0.503},
        feature=features,
        scorer=["detection"] * len(features),
        n_positive=np.full(len(features), 20),
        n_negative=np.full(len(features), 20),
        balanced_accuracy=accuracy,
        lo=np.clip(accuracy - 0.12, 0, 1),
        hi=np.clip(accuracy + 0.1, 0, 1),
        n_failed=np.zeros(len(features), int),
    )
    rows = [
        (layer, expert, label or f"{DOMAINS[expert % 6]}: " + ", ".join(_words(expert, 3)), 0.25,
         DOMAINS[expert % 6], 1.8, [int(features[expert])], _words(expert, 4))  # fmt: skip
        for layer in layers
        for expert in range(n_experts)
    ]
    names = ("layer", "expert", "label", "share", "top_domain", "domain_lift", "features", "tokens")
    if rows:
        _save(folder / "experts.parquet", **_columns(names, rows))


def _label(kind, feature):
    domain = DOMAINS[feature % 6]
    word = WORDS[domain][feature % len(WORDS[domain])]
    return {
        "token": f"the token ‘ {word}’",
        "context": f"after ‘ {word}’",
        "domain": f"text of the domain {domain}",
    }[str(kind)]


def _words(expert, n):
    return [" " + word for word in WORDS[DOMAINS[expert % 6]][:n]]
