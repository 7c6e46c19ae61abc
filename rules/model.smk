"""Tokens in, a model out, where the run makes its own.

In:  <results>/{run}/corpus/train/{shard}.zarr, corpus/tokenizer
Out: <results>/{run}/model
"""


rule train_model:
    """Train NanoMoE on the train split, or plant a model with a known map."""
    input:
        tokenizer="<results>/{run}/corpus/tokenizer",
        shards=corpus_shards("train"),
    output:
        directory("<results>/{run}/model"),
    log:
        "<logs>/{run}/train_model.log",
    benchmark:
        "<benchmarks>/{run}/train_model.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 4
    resources:
        **gpu("model"),
        mem_mb=memory("train_model", 3000),
        runtime=minutes(240),
    params:
        config=model_training(),
        seed=RUN.seed,
    message:
        "Training the model of run {wildcards.run}"
    script:
        "../workflow/scripts/train_model.py"
