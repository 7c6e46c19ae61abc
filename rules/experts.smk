"""Features and router decisions in, maps between features and experts out.

In:  <results>/{run}/features/{dictionary}/{window}, activations/test/{shard}.zarr, model
Out: <results>/{run}/experts/{dictionary}/{window}
"""


rule measure_effects:
    """Measure what routers choose with each feature and without it, all else as it was or not."""
    input:
        features=feature_shards(),
        tokens=corpus_shards("test"),
        weights="<results>/{run}/dictionary/{dictionary}/{window}/weights.safetensors",
        config="<results>/{run}/dictionary/{dictionary}/{window}/config.json",
        model=model_folder(),
    output:
        effects="<results>/{run}/experts/{dictionary}/{window}/effects.parquet",
    log:
        "<logs>/{run}/measure_effects/{dictionary}-{window}.log",
    benchmark:
        "<benchmarks>/{run}/measure_effects/{dictionary}-{window}.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        **gpu("experts"),
        mem_mb=memory("measure_effects", 2000),
        runtime=minutes(240),
    params:
        config=RUN.stage("experts"),
        model=model_params(),
        n_layers=RUN.n_layers_read(),
        seed=RUN.seed,
    message:
        "Measuring effects of {wildcards.dictionary} on {wildcards.window}"
    script:
        "../workflow/scripts/measure_effects.py"


rule map_reads:
    """Map which features call which experts: counts, regression, weights and effects together."""
    input:
        features=feature_shards(),
        stores=stores("test"),
        weights="<results>/{run}/dictionary/{dictionary}/{window}/weights.safetensors",
        config="<results>/{run}/dictionary/{dictionary}/{window}/config.json",
        effects="<results>/{run}/experts/{dictionary}/{window}/effects.parquet",
    output:
        reads="<results>/{run}/experts/{dictionary}/{window}/reads.parquet",
        agreement="<results>/{run}/experts/{dictionary}/{window}/agreement.parquet",
        summary="<results>/{run}/experts/{dictionary}/{window}/summary.json",
    log:
        "<logs>/{run}/map_reads/{dictionary}-{window}.log",
    benchmark:
        "<benchmarks>/{run}/map_reads/{dictionary}-{window}.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 4
    resources:
        mem_mb=memory("map_reads", 2000),
        runtime=minutes(240),
    params:
        config=RUN.stage("experts"),
        seed=RUN.seed,
    message:
        "Mapping reads of {wildcards.dictionary} on {wildcards.window}"
    script:
        "../workflow/scripts/map_reads.py"


rule map_writes:
    """Map which experts write which features, what features lose without them, and shared experts."""
    input:
        features=feature_shards(),
        tokens=corpus_shards("test"),
        weights="<results>/{run}/dictionary/{dictionary}/{window}/weights.safetensors",
        config="<results>/{run}/dictionary/{dictionary}/{window}/config.json",
        model=model_folder(),
    output:
        writes="<results>/{run}/experts/{dictionary}/{window}/writes.parquet",
        shared="<results>/{run}/experts/{dictionary}/{window}/shared.parquet",
    log:
        "<logs>/{run}/map_writes/{dictionary}-{window}.log",
    benchmark:
        "<benchmarks>/{run}/map_writes/{dictionary}-{window}.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        **gpu("experts"),
        mem_mb=memory("map_writes", 2000),
        runtime=minutes(240),
    params:
        config=RUN.stage("experts"),
        model=model_params(),
        n_layers=RUN.n_layers_read(),
        seed=RUN.seed,
    message:
        "Mapping writes of {wildcards.dictionary} on {wildcards.window}"
    script:
        "../workflow/scripts/map_writes.py"
