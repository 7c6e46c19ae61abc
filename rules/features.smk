"""Dictionaries and test stores in, sparse features and their contexts out.

In:  <results>/{run}/dictionary/{dictionary}/{window}, activations/test/{shard}.zarr
Out: <results>/{run}/features/{dictionary}/{window}
"""


rule encode_features:
    """Encode the test split into sparse feature activations, shard by shard."""
    input:
        weights=in_this_run(
            "<results>/{run}/dictionary/{dictionary}/{window}/weights.safetensors"
        ),
        config=in_this_run(
            "<results>/{run}/dictionary/{dictionary}/{window}/config.json"
        ),
        stores=in_this_run(stores("test")),
    output:
        directory(in_this_run(feature_shards())),
    log:
        in_this_run("<logs>/{run}/encode_features/{dictionary}-{window}.log"),
    benchmark:
        in_this_run("<benchmarks>/{run}/encode_features/{dictionary}-{window}.tsv")
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        **gpu("features"),
        mem_mb=memory("encode_features", 2000),
        runtime=minutes(60),
    params:
        format=RUN.features.format,
    message:
        "Encoding the test split with {wildcards.dictionary} on {wildcards.window}"
    script:
        "../workflow/scripts/encode_features.py"


rule collect_examples:
    """Count how often features fire, find their nearest, and collect contexts with and without."""
    input:
        shards=feature_shards(),
        weights="<results>/{run}/dictionary/{dictionary}/{window}/weights.safetensors",
        documents="<results>/{run}/corpus/documents.parquet",
        tokenizer="<results>/{run}/corpus/tokenizer",
    output:
        density="<results>/{run}/features/{dictionary}/{window}/density.parquet",
        neighbours="<results>/{run}/features/{dictionary}/{window}/neighbours.parquet",
        examples="<results>/{run}/features/{dictionary}/{window}/examples.parquet",
    log:
        "<logs>/{run}/collect_examples/{dictionary}-{window}.log",
    benchmark:
        "<benchmarks>/{run}/collect_examples/{dictionary}-{window}.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("collect_examples", 2000),
        runtime=minutes(120),
    params:
        config=RUN.stage("features"),
        seed=RUN.seed,
    message:
        "Collecting examples of {wildcards.dictionary} on {wildcards.window}"
    script:
        "../workflow/scripts/collect_examples.py"
