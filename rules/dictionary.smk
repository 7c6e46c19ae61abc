"""Activations in, one sparse dictionary for each window out, with its metrics.

In:  <results>/{run}/activations/{split}/{shard}.zarr, model
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
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        **gpu("dictionary"),
        mem_mb=8000,
    params:
        config=lambda wildcards: RUN.dictionary(wildcards.dictionary),
        seed=RUN.seed,
    message:
        "Training {wildcards.dictionary} on {wildcards.window}"
    script:
        "../workflow/scripts/train_dictionary.py"


rule evaluate_dictionary:
    """Measure a dictionary on the test split, spliced into the model."""
    input:
        weights="<results>/{run}/dictionary/{dictionary}/{window}/weights.safetensors",
        config="<results>/{run}/dictionary/{dictionary}/{window}/config.json",
        stores=stores("test"),
        tokens=corpus_shards("test"),
        model=model_folder(),
    output:
        "<results>/{run}/dictionary/{dictionary}/{window}/metrics.json",
    log:
        "<logs>/{run}/evaluate_dictionary/{dictionary}-{window}.log",
    benchmark:
        "<benchmarks>/{run}/evaluate_dictionary/{dictionary}-{window}.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        **gpu("dictionary"),
        mem_mb=8000,
    params:
        model=model_params(),
    message:
        "Evaluating {wildcards.dictionary} on {wildcards.window}"
    script:
        "../workflow/scripts/evaluate_dictionary.py"
