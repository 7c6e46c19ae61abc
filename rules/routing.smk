"""Test stores in, tables of what the routers do out; and what routers are, from the model itself.

In:  <results>/{run}/activations/test/{shard}.zarr, corpus/documents.parquet, model
Out: <results>/{run}/routing
"""


rule tabulate_routing:
    """Tabulate expert load, co-activation, vocabulary and domains on the test split."""
    input:
        stores=stores("test"),
        documents="<results>/{run}/corpus/documents.parquet",
        tokenizer="<results>/{run}/corpus/tokenizer",
    output:
        load="<results>/{run}/routing/load.parquet",
        load_layers="<results>/{run}/routing/load_layers.parquet",
        coactivation="<results>/{run}/routing/coactivation.parquet",
        vocabulary="<results>/{run}/routing/vocabulary.parquet",
        vocabulary_next="<results>/{run}/routing/vocabulary_next.parquet",
        vocabulary_layers="<results>/{run}/routing/vocabulary_layers.parquet",
        domains="<results>/{run}/routing/domains.parquet",
    log:
        "<logs>/{run}/tabulate_routing.log",
    benchmark:
        "<benchmarks>/{run}/tabulate_routing.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("tabulate_routing", 2000),
        runtime=minutes(60),
    params:
        config=routing_keys("min_token_count", "n_bootstrap"),
        seed=RUN.seed,
    message:
        "Tabulating the routing of run {wildcards.run}"
    script:
        "../workflow/scripts/tabulate_routing.py"


rule measure_specialisation:
    """Measure what experts tell of domains, and which of them each domain needs."""
    input:
        stores=stores("test"),
        documents="<results>/{run}/corpus/documents.parquet",
        tokenizer="<results>/{run}/corpus/tokenizer",
    output:
        specialisation="<results>/{run}/routing/specialisation.parquet",
        divergence="<results>/{run}/routing/divergence.parquet",
        relevance="<results>/{run}/routing/relevance.parquet",
    log:
        "<logs>/{run}/measure_specialisation.log",
    benchmark:
        "<benchmarks>/{run}/measure_specialisation.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("measure_specialisation", 2000),
        runtime=minutes(60),
    params:
        config=routing_keys(
            "n_bootstrap", "n_permutations", "token_top_p", "gate_top_p"
        ),
        seed=RUN.seed,
    message:
        "Measuring the specialisation of run {wildcards.run}"
    script:
        "../workflow/scripts/measure_specialisation.py"


rule trace_paths:
    """Trace the paths of tokens through the experts of consecutive layers."""
    input:
        stores=stores("test"),
        documents="<results>/{run}/corpus/documents.parquet",
        tokenizer="<results>/{run}/corpus/tokenizer",
    output:
        paths="<results>/{run}/routing/paths.parquet",
        paths_layers="<results>/{run}/routing/paths_layers.parquet",
        paths_top="<results>/{run}/routing/paths_top.parquet",
    log:
        "<logs>/{run}/trace_paths.log",
    benchmark:
        "<benchmarks>/{run}/trace_paths.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("trace_paths", 2000),
        runtime=minutes(60),
    params:
        config=routing_keys("n_shifts", "n_paths"),
        seed=RUN.seed,
    message:
        "Tracing the paths of run {wildcards.run}"
    script:
        "../workflow/scripts/trace_paths.py"


rule compare_centroids:
    """Hold the rows of routers against the mean inputs of their experts."""
    input:
        tokens=corpus_shards("test"),
        model=model_folder(),
    output:
        centroids="<results>/{run}/routing/centroids.parquet",
        centroids_layers="<results>/{run}/routing/centroids_layers.parquet",
    log:
        "<logs>/{run}/compare_centroids.log",
    benchmark:
        "<benchmarks>/{run}/compare_centroids.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        **gpu("activations"),
        mem_mb=memory("compare_centroids", 2000),
        runtime=minutes(60),
    params:
        config=routing_keys("centroid_tokens"),
        model=model_params(),
        n_layers=n_layers_read(),
        seed=RUN.seed,
    message:
        "Comparing rows and centroids of run {wildcards.run}"
    script:
        "../workflow/scripts/compare_centroids.py"


rule measure_saturation:
    """Measure how early routers decide as in the end, from kept checkpoints."""
    input:
        tokens=corpus_shards("test"),
        model=model_folder(),
    output:
        saturation="<results>/{run}/routing/saturation.parquet",
    log:
        "<logs>/{run}/measure_saturation.log",
    benchmark:
        "<benchmarks>/{run}/measure_saturation.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        **gpu("activations"),
        mem_mb=memory("measure_saturation", 2000),
        runtime=minutes(120),
    params:
        config=routing_keys("saturation_tokens", "n_bootstrap"),
        model=model_params(),
        seed=RUN.seed,
    message:
        "Measuring the saturation of run {wildcards.run}"
    script:
        "../workflow/scripts/measure_saturation.py"
