"""Features, routing and activations in, how well routing is predicted out.

In:  <results>/{run}/features/{dictionary}/{window}, activations/test/{shard}.zarr
Out: <results>/{run}/prediction/{dictionary}/{window}
"""


rule predict_routing:
    """Score how well routing is predicted from features, tokens and what is no dictionary."""
    input:
        features=feature_shards(),
        stores=stores("test"),
        random_stores=random_model_stores(),
        weights="<results>/{run}/dictionary/{dictionary}/{window}/weights.safetensors",
        config="<results>/{run}/dictionary/{dictionary}/{window}/config.json",
    output:
        "<results>/{run}/prediction/{dictionary}/{window}/scores.parquet",
    log:
        "<logs>/{run}/predict_routing/{dictionary}-{window}.log",
    benchmark:
        "<benchmarks>/{run}/predict_routing/{dictionary}-{window}.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        **gpu("prediction"),
        mem_mb=memory("predict_routing", 2000),
        runtime=minutes(240),
    params:
        config=RUN.stage("prediction"),
        seed=RUN.seed,
    message:
        "Predicting the routing that {wildcards.dictionary} on {wildcards.window} may explain"
    script:
        "../workflow/scripts/predict_routing.py"


rule cache_random_model:
    """Run the model with random weights over a test shard; only for prediction.random_model."""
    input:
        tokens="<results>/{run}/corpus/test/{shard}.zarr",
        model="<results>/{run}/justify/random_model",
    output:
        directory("<results>/{run}/prediction/random_model/{shard}.zarr"),
    log:
        "<logs>/{run}/cache_random_model/{shard}.log",
    benchmark:
        "<benchmarks>/{run}/cache_random_model/{shard}.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        **gpu("activations"),
        mem_mb=memory("cache_random_model", 2000),
        runtime=minutes(240),
    params:
        config=RUN.stage("activations"),
        sites=RUN.sites(),
        model=model_params(),
        n_layers=n_layers_read(),
        seed=RUN.seed,
    message:
        "Caching activations of the model with random weights, test shard {wildcards.shard}"
    script:
        "../workflow/scripts/cache_random_model.py"
