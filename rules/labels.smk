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
        mem_mb=4000,
    params:
        config=RUN.stage("labels"),
        seed=RUN.seed,
        parts=len(RUN.dictionaries) * len(WINDOWS),
    message:
        "Labelling features of {wildcards.dictionary} on {wildcards.window}"
    script:
        "../workflow/scripts/label_features.py"


rule label_experts:
    """Describe each expert by the features that call it, its tokens and its domain."""
    input:
        reads="<results>/{run}/experts/{dictionary}/{window}/reads.parquet",
        summary="<results>/{run}/experts/{dictionary}/{window}/summary.json",
        features="<results>/{run}/labels/{dictionary}/{window}/features.parquet",
        routing=rules.tabulate_routing.output,
        writes="<results>/{run}/experts/{dictionary}/{window}/writes.parquet",
    output:
        "<results>/{run}/labels/{dictionary}/{window}/experts.parquet",
    log:
        "<logs>/{run}/label_experts/{dictionary}-{window}.log",
    benchmark:
        "<benchmarks>/{run}/label_experts/{dictionary}-{window}.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        config=RUN.stage("labels"),
        expert_domains=RUN.model.expert_domains,
    message:
        "Labelling experts by {wildcards.dictionary} on {wildcards.window}"
    script:
        "../workflow/scripts/label_experts.py"
