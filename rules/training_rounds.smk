"""Tokens and model in, sparse dictionaries out, through stores that come and go (batches.round_shards).

A round is some shards of the train split. While one is trained on, the next is captured; the stores
of one are removed before the next but one is begun, so no more than two are on the disk.

In:  <results>/{run}/corpus/train/{shard}.zarr, activations/select/{shard}.zarr, model
Out: <results>/{run}/dictionary/{dictionary}/{window}
"""

import sys

from deepseemoe.config.rounds import N_ON_DISK, round_name

# Snakemake follows a chain of jobs by recursion; from about 950 rounds on Python's limit is too low.
sys.setrecursionlimit(max(sys.getrecursionlimit(), 200_000))

ROUNDS = {one.name: one for one in RUN.rounds()}
LAST = round_name(len(ROUNDS) - 1)


wildcard_constraints:
    round="|".join(ROUNDS),


def earlier_round(wildcards, n_rounds):
    """Return the name of the round so many before; None where there is none."""
    number = ROUNDS[wildcards.get("round", LAST)].number - n_rounds
    return round_name(number) if number >= 0 else None


def left_by(group, name):
    """Return the folders in which a round leaves the dictionaries of a group."""
    return [
        f"<results>/{{run}}/rounds/{dictionary}/{window}/{name}"
        for dictionary, window in group
    ]


def tokens_of_round(wildcards):
    """Return the token shards of a round."""
    return [
        f"<results>/{{run}}/corpus/train/{shards('train')[shard]}.zarr"
        for shard in ROUNDS[wildcards.round].shards
    ]


def until_trained(wildcards):
    """Return what all dictionaries leave of the round whose stores make room for this one's.

    It is waited for and not read. Not `ancient`: where a training begins again, later rounds that are
    on the disk are removed, and have to be made again in their turn.
    """
    name = earlier_round(wildcards, N_ON_DISK)
    return [path for group in groups() for path in left_by(group, name)] if name else []


def left_before(group):
    """Return a function of the wildcards: what the round before left of a group."""

    def of(wildcards):
        name = earlier_round(wildcards, 1)
        return left_by(group, name) if name else []

    return of


rule cache_round:
    """Run the model over all shards of a round; its stores are removed once they are trained on."""
    input:
        tokens=tokens_of_round,
        model=model_folder(),
        trained=until_trained,
    output:
        temp(directory("<results>/{run}/activations/rounds/{round}")),
    log:
        "<logs>/{run}/cache_round/{round}.log",
    benchmark:
        "<benchmarks>/{run}/cache_round/{round}.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        **gpu("activations"),
        mem_mb=memory("cache_activations", 3000),
        runtime=minutes(240),
    params:
        config=RUN.stage("activations"),
        sites=RUN.sites(),
        model=model_params(),
        n_layers=n_layers_read(),
        files=MODEL_FILES,
        seed=RUN.seed,
    message:
        "Caching activations of round {wildcards.round}"
    script:
        "../workflow/scripts/cache_round.py"


for number, group in enumerate(groups()):
    if len(ROUNDS) > 1:

        rule:
            # Train a group of dictionaries on a round, and leave them for the next.
            name:
                f"train_round_{number:02d}"
            input:
                stores="<results>/{run}/activations/rounds/{round}",
                before=left_before(group),
            output:
                temp(directory(left_by(group, "{round}"))),
            log:
                f"<logs>/{{run}}/train_round/{number:02d}-{{round}}.log",
            benchmark:
                f"<benchmarks>/{{run}}/train_round/{number:02d}-{{round}}.tsv"
            wildcard_constraints:
                round="|".join(name for name in ROUNDS if name != LAST),
            conda:
                "../envs/deepseemoe.yaml"
            threads: 1
            resources:
                **gpu("dictionary"),
                mem_mb=memory("train_together", 3000),
                runtime=minutes(720),
            params:
                members=[(name, str(window)) for name, window in group],
                dictionaries={name: RUN.dictionary(name) for name, _ in group},
                processes=dictionary_processes(),
                round=lambda wildcards: [*ROUNDS[wildcards.round]],
                seed=RUN.seed,
            message:
                f"Training {len(group)} dictionaries on round {{wildcards.round}}"
            script:
                "../workflow/scripts/train_round.py"

    rule:
        # Train a group of dictionaries on the last round, and write them.
        name:
            f"train_last_round_{number:02d}"
        input:
            stores=f"<results>/{{run}}/activations/rounds/{LAST}",
            before=left_before(group),
            select=stores("select"),
        output:
            weights=of_group(group, "weights.safetensors"),
            config=of_group(group, "config.json"),
            training=of_group(group, "training.parquet"),
        log:
            f"<logs>/{{run}}/train_round/{number:02d}-last.log",
        benchmark:
            f"<benchmarks>/{{run}}/train_round/{number:02d}-last.tsv"
        conda:
            "../envs/deepseemoe.yaml"
        threads: 1
        resources:
            **gpu("dictionary"),
            mem_mb=memory("train_together", 3000),
            runtime=minutes(720),
        params:
            members=[(name, str(window)) for name, window in group],
            dictionaries={name: RUN.dictionary(name) for name, _ in group},
            processes=dictionary_processes(),
            round=[*ROUNDS[LAST]],
            seed=RUN.seed,
        message:
            f"Training {len(group)} dictionaries on the last round"
        script:
            "../workflow/scripts/train_last_round.py"
