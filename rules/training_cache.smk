"""Stores of the train split in, one sparse dictionary for each window out.

In:  <results>/{run}/activations/{split}/{shard}.zarr
Out: <results>/{run}/dictionary/{dictionary}/{window}
"""


rule train_dictionary:
    """Train one sparse dictionary on the layers of one window."""
    input:
        train=stores("train"),
        select=stores("select"),
    output:
        weights="<results>/{run}/dictionary/{dictionary}/{window}/weights.safetensors",
        config="<results>/{run}/dictionary/{dictionary}/{window}/config.json",
        training="<results>/{run}/dictionary/{dictionary}/{window}/training.parquet",
    log:
        "<logs>/{run}/train_dictionary/{dictionary}-{window}.log",
    benchmark:
        "<benchmarks>/{run}/train_dictionary/{dictionary}-{window}.tsv"
    wildcard_constraints:
        dictionary="|".join(trained()),
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        **gpu("dictionary"),
        mem_mb=memory("train_dictionary", 3000),
        runtime=minutes(720),
    params:
        config=lambda wildcards: RUN.dictionary(wildcards.dictionary),
        processes=dictionary_processes(),
        seed=RUN.seed,
    message:
        "Training {wildcards.dictionary} on {wildcards.window}"
    script:
        "../workflow/scripts/train_dictionary.py"
