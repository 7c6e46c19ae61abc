"""Contexts, features and maps in, descriptions of features and experts out.

In:  <results>/{run}/features/{dictionary}/{window}, experts/{dictionary}/{window}, routing
Out: <results>/{run}/labels/{dictionary}/{window}
"""


rule label_features:
    """Describe each feature and score the description on documents that it was not made from."""
    input:
        shards=feature_shards(),
        density="<results>/{run}/features/{dictionary}/{window}/density.parquet",
        examples="<results>/{run}/features/{dictionary}/{window}/examples.parquet",
        reads="<results>/{run}/experts/{dictionary}/{window}/reads.parquet",
        documents="<results>/{run}/corpus/documents.parquet",
        tokenizer="<results>/{run}/corpus/tokenizer",
    output:
        features="<results>/{run}/labels/{dictionary}/{window}/features.parquet",
        scores="<results>/{run}/labels/{dictionary}/{window}/scores.parquet",
        bill="<results>/{run}/labels/{dictionary}/{window}/bill.json",
    log:
        "<logs>/{run}/label_features/{dictionary}-{window}.log",
    benchmark:
        "<benchmarks>/{run}/label_features/{dictionary}-{window}.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("label_features", 2000),
        runtime=minutes(720),
    params:
        config=RUN.stage("labels"),
        seed=RUN.seed,
        parts=len(RUN.dictionaries) * len(WINDOWS),
    message:
        "Labelling features of {wildcards.dictionary} on {wildcards.window}"
    script:
        "../workflow/scripts/label_features.py"


rule label_experts:
    """Describe each expert and score the description by the routing that it predicts."""
    input:
        reads="<results>/{run}/experts/{dictionary}/{window}/reads.parquet",
        summary="<results>/{run}/experts/{dictionary}/{window}/summary.json",
        features="<results>/{run}/labels/{dictionary}/{window}/features.parquet",
        routing=rules.tabulate_routing.output,
        writes="<results>/{run}/experts/{dictionary}/{window}/writes.parquet",
        shared="<results>/{run}/experts/{dictionary}/{window}/shared.parquet",
        shards=feature_shards(),
        stores=stores("test"),
        weights="<results>/{run}/dictionary/{dictionary}/{window}/weights.safetensors",
        documents="<results>/{run}/corpus/documents.parquet",
        tokenizer="<results>/{run}/corpus/tokenizer",
    output:
        experts="<results>/{run}/labels/{dictionary}/{window}/experts.parquet",
        scores="<results>/{run}/labels/{dictionary}/{window}/expert_scores.parquet",
        bill="<results>/{run}/labels/{dictionary}/{window}/expert_bill.json",
    log:
        "<logs>/{run}/label_experts/{dictionary}-{window}.log",
    benchmark:
        "<benchmarks>/{run}/label_experts/{dictionary}-{window}.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("label_experts", 2000),
        runtime=minutes(720),
    params:
        config=RUN.stage("labels"),
        expert_domains=RUN.model.expert_domains,
        seed=RUN.seed,
        parts=len(RUN.dictionaries) * len(WINDOWS),
    message:
        "Labelling experts by {wildcards.dictionary} on {wildcards.window}"
    script:
        "../workflow/scripts/label_experts.py"
