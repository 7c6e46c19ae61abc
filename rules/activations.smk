"""Tokens and model in, activations and router decisions out.

In:  <results>/{run}/corpus/{split}/{shard}.zarr, model
Out: <results>/{run}/activations/{split}/{shard}.zarr
"""


rule cache_activations:
    """Run the model over one shard; cache the activations asked for and every router decision."""
    input:
        tokens="<results>/{run}/corpus/{split}/{shard}.zarr",
        model=model_folder(),
    output:
        directory("<results>/{run}/activations/{split}/{shard}.zarr"),
    log:
        "<logs>/{run}/cache_activations/{split}-{shard}.log",
    benchmark:
        "<benchmarks>/{run}/cache_activations/{split}-{shard}.tsv"
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
        "Caching activations of {wildcards.split} shard {wildcards.shard}"
    script:
        "../workflow/scripts/cache_activations.py"
