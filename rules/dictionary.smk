"""Dictionaries and test stores in, their metrics out; training_*.smk makes the dictionaries.

In:  <results>/{run}/dictionary/{dictionary}/{window}, activations/test/{shard}.zarr, model
Out: <results>/{run}/dictionary/{dictionary}/{window}/metrics.json
"""


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
        **gpu("evaluation"),
        mem_mb=memory("evaluate_dictionary", 3000),
        runtime=minutes(120),
    params:
        model=model_params(),
    message:
        "Evaluating {wildcards.dictionary} on {wildcards.window}"
    script:
        "../workflow/scripts/evaluate_dictionary.py"
