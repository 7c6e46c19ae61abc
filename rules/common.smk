"""What all rules share: the validated configuration, the wildcards, and the lists of files.

Wildcards: run (this run only), split (train, select, test), shard (five digits), dictionary (a named
entry of the configuration), window (L08-L10, both ends in, from 0); and for `justify` arm (on what
and how large a dictionary is trained, as trained-F256-k8), seed, weights (trained, random).
"""

import sys
from pathlib import Path

# A bare checkout can lint and dry-run: the configuration imports nothing that Snakemake lacks.
sys.path.insert(0, str(Path(workflow.current_basedir.path).parent / "src"))

from deepseemoe.config import load_run
from deepseemoe.config.groups import at_most, groups_of
from deepseemoe.justify import plan
from deepseemoe.names import SPLITS, shard_name
from deepseemoe.preflight import key_problems
from deepseemoe.report.names import figure_groups, figure_names
from deepseemoe.runtime.fingerprint import fingerprint

RUN = load_run(config)
WINDOWS = [str(window) for window in RUN.windows]
# Where the target `justify` lays its windows; empty where the configuration cannot know the layers.
JUSTIFIED = plan.justified_layers(RUN)
JUSTIFIED_WINDOWS = plan.windows_of(RUN.justify, JUSTIFIED) if JUSTIFIED else ()
JUSTIFIED_SITES = (
    [f"resid_post/L{layer:02d}" for layer in JUSTIFIED.layers] if JUSTIFIED else []
)
# Files from outside: where one changes, what was made of it is made again.
TEXT_FILES = fingerprint(RUN.corpus.paths)
MODEL_FILES = fingerprint([RUN.model.name] if RUN.model.source == "hub" else [])
IMPORTED_FILES = fingerprint(RUN.imported_folders())


wildcard_constraints:
    run=RUN.name,
    split="|".join(SPLITS),
    shard=r"\d{5}",
    dictionary="|".join(RUN.dictionaries),
    window="|".join(dict.fromkeys([*WINDOWS, *map(str, JUSTIFIED_WINDOWS)])),
    weights="trained|random",
    arm=r"(trained|shuffled|random)-F\d+-k\d+",
    seed=r"\d+",


def shards(split):
    """Return the names of the shards of a split."""
    return [shard_name(shard) for shard in range(RUN.corpus.n_shards(split))]


def corpus_shards(split):
    """Return the token shards of a split."""
    return expand(
        "<results>/{{run}}/corpus/{}/{{shard}}.zarr".format(split),
        shard=shards(split),
        allow_missing=True,
    )


def stores(split):
    """Return the activation stores of a split."""
    return expand(
        "<results>/{{run}}/activations/{}/{{shard}}.zarr".format(split),
        shard=shards(split),
        allow_missing=True,
    )


def random_model_stores():
    """Return the test stores of the model with random weights, where the run asks for them."""
    if not RUN.prediction.random_model:
        return []
    return expand(
        "<results>/{{run}}/prediction/random_model/{shard}.zarr", shard=shards("test")
    )


def feature_shards():
    """Return the sparse features of the test split, for one dictionary and window."""
    return expand(
        "<results>/{run}/features/{dictionary}/{window}/{shard}.zarr",
        shard=shards("test"),
        allow_missing=True,
    )


def model_folder():
    """Return the model that the run reads, as an input; nothing where it reads one from the Hub."""
    if RUN.model.random_weights:
        return ["<results>/{run}/justify/random_model"]
    return trained_model_folder()


def trained_model_folder():
    """Return the model that the run makes, as an input; nothing where it comes from the Hub."""
    return [] if RUN.model.source == "hub" else ["<results>/{run}/model"]


def of_each_dictionary(pattern):
    """Return `pattern` for each dictionary and window of the run."""
    return expand(
        pattern,
        dictionary=RUN.dictionaries,
        window=WINDOWS,
        allow_missing=True,
    )


def groups():
    """Return the dictionaries that each job of training_together.smk trains."""
    together = RUN.batches.together
    if together == "auto" and RUN.devices.on_gpu("dictionary"):
        # Their bytes need torch, which plans of all other runs do without.
        from deepseemoe.plan.together import fits_gpus, width_of

        return groups_of(RUN, fits_gpus(RUN, width_of(RUN)))
    return groups_of(RUN, at_most(1 if together == "auto" else together))


def of_group(group, file):
    """Return a file of each dictionary of a group."""
    return [
        f"<results>/{{run}}/dictionary/{name}/{window}/{file}" for name, window in group
    ]


def imported():
    """Return the dictionaries that are read from files of other tools."""
    return [name for name, entry in RUN.dictionaries.items() if entry.imported]


def trained():
    """Return the dictionaries that the run trains."""
    return [name for name in RUN.dictionaries if name not in imported()]


def of_each_trained(pattern):
    """Return `pattern` for each dictionary that the run trains, and each window."""
    return expand(pattern, dictionary=trained(), window=WINDOWS, allow_missing=True)


def imported_params(dictionary):
    """Return what of an entry says which files are read, and what they must have."""
    wanted = ("imported", "d_dict", "k")
    return {key: RUN.dictionary(dictionary)[key] for key in wanted}


def tables():
    """Return every table of the run that people open; one that is deleted is made again."""
    of_all = of_each_dictionary(
        [
            "<results>/{run}/dictionary/{dictionary}/{window}/metrics.json",
            "<results>/{run}/features/{dictionary}/{window}/density.parquet",
            "<results>/{run}/features/{dictionary}/{window}/neighbours.parquet",
            "<results>/{run}/features/{dictionary}/{window}/examples.parquet",
            "<results>/{run}/experts/{dictionary}/{window}/reads.parquet",
            "<results>/{run}/experts/{dictionary}/{window}/effects.parquet",
            "<results>/{run}/experts/{dictionary}/{window}/writes.parquet",
            "<results>/{run}/experts/{dictionary}/{window}/shared.parquet",
            "<results>/{run}/prediction/{dictionary}/{window}/scores.parquet",
            "<results>/{run}/labels/{dictionary}/{window}/features.parquet",
            "<results>/{run}/labels/{dictionary}/{window}/scores.parquet",
            "<results>/{run}/labels/{dictionary}/{window}/experts.parquet",
            "<results>/{run}/labels/{dictionary}/{window}/expert_scores.parquet",
        ]
    )
    return expand(of_all, run=RUN.name)


def check_key():
    """Raise ValueError where descriptions are still to be made and the language model has no key."""
    folder = Path(RUN.pathvars.get("results", "results"), RUN.name)
    made = of_each_dictionary("labels/{dictionary}/{window}/experts.parquet")
    if not all((folder / path).exists() for path in made):
        if problems := list(key_problems(RUN)):
            raise ValueError("; ".join(problems))


def routing_keys(*keys):
    """Return some keys of `routing`: those that a rule's tables depend on."""
    return {key: RUN.stage("routing")[key] for key in (*keys, "format")}


def routing_tables():
    """Return every table of what the routers do; those of saturation where checkpoints were kept."""
    makers = [
        rules.tabulate_routing,
        rules.measure_specialisation,
        rules.trace_paths,
        rules.compare_centroids,
    ]
    is_trained = RUN.model.source == "nanomoe" and not RUN.model.random_weights
    if is_trained and RUN.model.training.keep_checkpoints:
        makers.append(rules.measure_saturation)
    return [path for rule in makers for path in expand(rule.output, run=RUN.name)]


def justified_stores(split):
    """Return a function of the wildcards `arm` or `weights`: the stores `justify` reads of a split."""
    n_tokens = {
        "train": RUN.justify.n_tokens,
        "select": RUN.corpus.n_tokens.select,
        "test": RUN.justify.test_tokens,
    }[split]
    # A shard more than the tokens fill: position 0 of every document is not valid.
    n_shards = min(RUN.corpus.n_shards(split), n_tokens // RUN.corpus.shard_tokens + 1)

    def of(wildcards):
        weights = wildcards.get("weights") or wildcards.arm.split("-")[0]
        return [
            f"<results>/{{run}}/justify/activations/{weights}/{split}/{shard}.zarr".replace(
                "shuffled", "trained"
            )
            for shard in shards(split)[:n_shards]
        ]

    return of


def justified_dictionaries(wildcards):
    """Return the weights of all dictionaries that the arms of a window and seed are made of."""
    config, window = RUN.justify, plan.Window.parse(wildcards.window)
    arms = plan.evaluated(config, window, wildcards.weights, int(wildcards.seed))
    found = [one for arm in arms for one in plan.members(config, arm, window)]
    folder = "<results>/{{run}}/justify/dictionary/{}/{}/{{seed}}/weights.safetensors"
    return list(dict.fromkeys(folder.format(one.arm, one.window) for one in found))


def stores_of_random_weights():
    """Return the test stores of the model with random weights, where `trust` asks for them."""
    if "weights" not in RUN.trust.switches:
        return []
    return expand(
        "<results>/{{run}}/prediction/random_model/{shard}.zarr", shard=shards("test")
    )


def justification(wildcards):
    """Return what the target `justify` makes; raise ValueError where its configuration forbids it."""
    if problems := list(plan.plan_problems(RUN)):
        raise ValueError("; ".join(problems))
    files = ("table.parquet", "finding.json", "figure.svg", "page.html")
    return [f"<results>/{RUN.name}/justify/{file}" for file in files]


def justified_sums():
    """Return the sums of every evaluation of `justify`."""
    pattern = "<results>/{{run}}/justify/evaluation/{}/{}/{}/sums.parquet"
    return [pattern.format(*which) for which in plan.evaluations(RUN)]


def stability_members(wildcards):
    """Return the dictionaries of each arm of a window that all seeds train, as in their paths."""
    window = plan.Window.parse(wildcards.window)
    arms = [arm for arm in plan.arms_of(RUN.justify, window) if arm in plan.ALL_SEEDS]
    return {
        arm: [f"{m.arm}/{m.window}" for m in plan.members(RUN.justify, arm, window)]
        for arm in arms
    }


def stability_dictionaries(wildcards):
    """Return the weights that `stability_members` names, of all seeds."""
    return [
        f"<results>/{{run}}/justify/dictionary/{one}/{seed}/weights.safetensors"
        for one in dict.fromkeys(sum(stability_members(wildcards).values(), []))
        for seed in RUN.justify.seeds
    ]


def justified_model(wildcards):
    """Return the folder of the model with trained or random weights, as an input."""
    is_random = wildcards.weights == "random"
    return ["<results>/{run}/justify/random_model"] if is_random else model_folder()


def compared_files():
    """Return a name for the tables that `compare` reads: where one changes, it compares again."""
    results = Path(expand("<results>")[0])
    folders = [
        Path(entry.run) if "/" in entry.run else results / entry.run
        for entry in RUN.compare.entries
    ]
    stages = ("dictionary", "routing", "experts", "labels")
    return fingerprint(f"{folder}/{stage}" for folder in folders for stage in stages)


def gpu(*stages):
    """Return the resources of a job that does these stages: its GPUs, all of one node."""
    n_gpus = sum(RUN.devices.n_gpus(stage) for stage in stages)
    # Two GPUs may be granted on two nodes, where one process cannot use them.
    return {"gpu": n_gpus} | ({"nodes": 1} if n_gpus > 1 else {})


def dictionary_processes():
    """Return how many processes on CPUs share a dictionary; GPUs have one each."""
    return 1 if RUN.devices.on_gpu("dictionary") else RUN.devices.processes


def justify_training():
    """Return the keys of `justify` that a dictionary's training depends on; size and k are its arm."""
    keys = (
        "n_tokens",
        "batch_tokens",
        "learning_rate",
        "init_norm",
        "checkpoint_steps",
        "format",
    )
    return {key: RUN.stage("justify")[key] for key in keys}


def justify_evaluation():
    """Return `justify` without what only decides on, or adds to, what was evaluated."""
    later = ("layers", "widths", "endpoint", "max_fvu", "n_bootstrap", "confidence")
    return {
        key: value for key, value in RUN.stage("justify").items() if key not in later
    }


def n_layers_read():
    """Return how many first layers capture loads; None where it runs the model to its end."""
    return RUN.n_layers_read() if RUN.activations.routing == "needed" else None


def model_params():
    """Return how to load the model: what it is, not how it was trained or what is said of it."""
    left_out = ("training", "expert_domains")
    # What is trained is the same: a run from before the key does not read its model anew.
    left_out += () if RUN.model.random_weights else ("random_weights",)
    return {
        key: value for key, value in RUN.stage("model").items() if key not in left_out
    }


def model_training():
    """Return what the run's own model depends on, trained whether or not it is read."""
    left_out = ("random_weights",)
    return {
        key: value for key, value in RUN.stage("model").items() if key not in left_out
    }


def figure(stem, group, category):
    """Return one figure of the report, in its category and with its caption."""
    caption = f"../workflow/report/{group}.rst"
    return report(
        f"<results>/{{run}}/report/figures/{stem}.svg",
        caption=caption,
        category=category,
    )


def copies_of_figures():
    """Return the figures in the other formats that the configuration asks for."""
    return [
        f"<results>/{{run}}/report/figures/{stem}.{kind}"
        for kind in RUN.report.formats
        if kind != "svg"
        for stem in figure_names(RUN)
    ]


def figures():
    """Return the report's figures."""
    return [
        figure(stem, name, category)
        for name, category, stems in figure_groups(RUN)
        for stem in stems
    ]
