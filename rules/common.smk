"""What all rules share: the validated configuration, the wildcards, and the lists of files.

Wildcards: run (this run only), split (train, select, test), shard (five digits), dictionary (a named
entry of the configuration), window (L08-L10, both ends in, from 0); and for `justify` arm (on what
and how large a dictionary is trained, as trained-F256-k8), seed, weights (trained, random).
"""

import sys
from contextlib import contextmanager
from pathlib import Path

from snakemake.logging import logger

# A bare checkout can lint and dry-run: the configuration imports nothing that Snakemake lacks.
sys.path.insert(0, str(Path(workflow.current_basedir.path).parent / "src"))

from deepseemoe.config import load_run
from deepseemoe.config.files import read_file
from deepseemoe.config.groups import at_most, groups_of
from deepseemoe.justify import plan
from deepseemoe.names import SPLITS, shard_name
from deepseemoe.preflight import problems
from deepseemoe.report.names import figure_groups, figure_names
from deepseemoe.runtime.claim import hold_workflow
from deepseemoe.runtime.fingerprint import fingerprint
from deepseemoe.runtime.remains import drop_damaged_records, make_way
from deepseemoe.runtime.terminal import printable


@contextmanager
def told():
    """End with what is wrong, without the places in the code where it was found."""
    try:
        yield
    except (ValueError, OSError) as error:
        # The logger of Snakemake fails on letters that the locale lacks.
        encoding = sys.getfilesystemencoding()
        line = printable(str(error)).encode(encoding, "backslashreplace")
        logger.error(line.decode(encoding))
        sys.exit(1)


with told():
    if workflow.is_main_process:
        # Snakemake takes the later of two equal keys without a word.
        for file in workflow.configfiles:
            read_file(Path(file))
        # Snakemake would end on them with the places in its code.
        if dropped := drop_damaged_records(Path(".snakemake")):
            notes = ", ".join(map(str, dropped[:3]))
            logger.warning(
                f"{len(dropped)} damaged notes of Snakemake removed: {notes}"
            )
    RUN = load_run(config)
# What <results> stands for; Snakemake fills it in in the paths of rules only.
RESULTS = Path(workflow.pathvars.apply("<results>"))
WINDOWS = [str(window) for window in RUN.windows]
# Where the target `justify` lays its windows; empty where the configuration cannot know the layers.
JUSTIFIED = plan.justified_layers(RUN)
JUSTIFIED_WINDOWS = plan.windows_of(RUN.justify, JUSTIFIED) if JUSTIFIED else ()
JUSTIFIED_SITES = (
    [f"resid_post/L{layer:02d}" for layer in JUSTIFIED.layers] if JUSTIFIED else []
)
with told():
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


SHARDS = {
    split: [shard_name(shard) for shard in range(RUN.corpus.n_shards(split))]
    for split in SPLITS
}


def shards(split):
    """Return the names of the shards of a split."""
    return SHARDS[split]


def in_this_run(pattern):
    """Return paths with the run's name in place of its wildcard, for a rule of many outputs.

    Snakemake asks for each file every output whose beginning, up to a wildcard, fits: thousands that
    begin with the wildcard `run` would be asked for all files of the run.
    """
    if isinstance(pattern, str):
        return pattern.replace("{run}", RUN.name)
    return [in_this_run(one) for one in pattern]


def of_shards(stage, split, names):
    """Return the files of some shards of a split, at a stage that has one for each."""
    return [f"<results>/{{run}}/{stage}/{split}/{shard}.zarr" for shard in names]


def corpus_shards(split):
    """Return the token shards of a split."""
    return of_shards("corpus", split, shards(split))


def stores(split):
    """Return the activation stores of a split."""
    return of_shards("activations", split, shards(split))


def shard_groups():
    """Return split, number and shards of each job of activations_grouped.smk."""
    size = RUN.activations.shards_per_job
    return [
        (split, start // size, names[start : start + size])
        for split, names in SHARDS.items()
        for start in range(0, len(names), size)
    ]


def random_model_stores():
    """Return the test stores of the model with random weights, where the run asks for them."""
    if not RUN.prediction.random_model:
        return []
    return expand(
        "<results>/{{run}}/prediction/random_model/{shard}.zarr", shard=shards("test")
    )


def feature_shards():
    """Return the sparse features of the test split, for one dictionary and window."""
    folder = "<results>/{run}/features/{dictionary}/{window}"
    return [f"{folder}/{shard}.zarr" for shard in shards("test")]


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


def check_start():
    """Raise ValueError with a line for each thing that the jobs to come need and do not find."""
    waiting = {job.rule.name for job in workflow.dag.needrun_jobs()}
    if found := problems(RUN, waiting):
        raise ValueError("\n".join(found))


def hold_run():
    """Raise ValueError where another workflow makes this run, OSError where it cannot be written."""
    if workflow.is_main_process:
        hold_workflow(RESULTS / RUN.name)
        outputs = (
            Path(path) for job in workflow.dag.needrun_jobs() for path in job.output
        )
        make_way(RESULTS / RUN.name, outputs)


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


def stores_of_random_weights():
    """Return the test stores of the model with random weights, where `trust` asks for them."""
    if "weights" not in RUN.trust.switches:
        return []
    return expand(
        "<results>/{{run}}/prediction/random_model/{shard}.zarr", shard=shards("test")
    )


def compared_files():
    """Return a name for the tables that `compare` reads: where one changes, it compares again."""
    folders = [
        Path(entry.run) if "/" in entry.run else RESULTS / entry.run
        for entry in RUN.compare.entries
    ]
    stages = ("dictionary", "routing", "experts", "labels")
    return fingerprint(f"{folder}/{stage}" for folder in folders for stage in stages)


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
