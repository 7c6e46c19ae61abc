"""Tokens and model in, all trained dictionaries of the run out, with no store of the train split.

In:  <results>/{run}/corpus/train/{shard}.zarr, activations/select/{shard}.zarr, model
Out: <results>/{run}/dictionary/{dictionary}/{window}
"""


rule train_live:
    """Train all dictionaries on what the model computes while it reads the train split."""
    input:
        tokens=corpus_shards("train"),
        select=stores("select"),
        model=model_folder(),
    output:
        weights=of_each_trained(
            "<results>/{run}/dictionary/{dictionary}/{window}/weights.safetensors"
        ),
        config=of_each_trained(
            "<results>/{run}/dictionary/{dictionary}/{window}/config.json"
        ),
        training=of_each_trained(
            "<results>/{run}/dictionary/{dictionary}/{window}/training.parquet"
        ),
    log:
        "<logs>/{run}/train_live.log",
    benchmark:
        "<benchmarks>/{run}/train_live.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 2
    resources:
        **gpu("activations", "dictionary"),
        mem_mb=memory("train_live", 3000),
        runtime=minutes(1440),
    params:
        dictionaries={name: RUN.dictionary(name) for name in trained()},
        windows=WINDOWS,
        activations=RUN.stage("activations"),
        batches=RUN.stage("batches"),
        model=model_params(),
        n_layers=n_layers_read(),
        sites=RUN.sites(),
        files=MODEL_FILES,
        on_gpu={
            "model_on_gpu": RUN.devices.on_gpu("activations"),
            "own_on_gpu": RUN.devices.on_gpu("dictionary"),
        },
        seed=RUN.seed,
    message:
        "Training all dictionaries of run {wildcards.run} while the model runs"
    script:
        "../workflow/scripts/train_live.py"
