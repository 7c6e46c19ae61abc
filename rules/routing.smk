"""Test stores in, tables of what the routers do out.

In:  <results>/{run}/activations/test/{shard}.zarr, corpus/documents.parquet
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
        coactivation="<results>/{run}/routing/coactivation.parquet",
        vocabulary="<results>/{run}/routing/vocabulary.parquet",
        domains="<results>/{run}/routing/domains.parquet",
    log:
        "<logs>/{run}/tabulate_routing.log",
    benchmark:
        "<benchmarks>/{run}/tabulate_routing.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=4000,
    params:
        config=RUN.stage("routing"),
        seed=RUN.seed,
    message:
        "Tabulating the routing of run {wildcards.run}"
    script:
        "../workflow/scripts/tabulate_routing.py"
