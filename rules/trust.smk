"""The target `trust`: how far may the maps be believed? Not part of `all`.

In:  <results>/{run}/features, activations/test/{shard}.zarr, experts, corpus/documents.parquet
Out: <results>/{run}/trust
"""


localrules:
    trust,


rule trust:
    """Score the maps in planted worlds and nulls, and the run's own data with ties cut; write a page."""
    input:
        expand(
            "<results>/{run}/trust/{file}",
            run=RUN.name,
            file=("planted.parquet", "nulls.parquet", "summary.json", "page.html"),
        ),


rule judge_worlds:
    """Map planted worlds, whose truth is known, and nulls, in which nothing is to be found."""
    output:
        planted="<results>/{run}/trust/planted.parquet",
        nulls="<results>/{run}/trust/nulls/planted.parquet",
    log:
        "<logs>/{run}/judge_worlds.log",
    benchmark:
        "<benchmarks>/{run}/judge_worlds.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("judge_worlds", 2000),
        runtime=minutes(120),
    params:
        config=RUN.stage("trust"),
        experts=RUN.stage("experts"),
    message:
        "Mapping planted worlds with the settings of run {wildcards.run}"
    script:
        "../workflow/scripts/judge_worlds.py"


rule cut_ties:
    """Map the features of one dictionary with routing that is not theirs."""
    input:
        features=feature_shards(),
        stores=stores("test"),
        random=stores_of_random_weights(),
        reads="<results>/{run}/experts/{dictionary}/{window}/reads.parquet",
        summary="<results>/{run}/experts/{dictionary}/{window}/summary.json",
    output:
        "<results>/{run}/trust/nulls/{dictionary}/{window}.parquet",
    log:
        "<logs>/{run}/cut_ties/{dictionary}-{window}.log",
    benchmark:
        "<benchmarks>/{run}/cut_ties/{dictionary}-{window}.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("cut_ties", 2000),
        runtime=minutes(240),
    params:
        config=RUN.stage("trust"),
        experts=RUN.stage("experts"),
        seed=RUN.seed,
    message:
        "Cutting the ties of {wildcards.dictionary} on {wildcards.window}"
    script:
        "../workflow/scripts/cut_ties.py"


rule shuffle_labels:
    """Tabulate domains with the labels of documents shuffled."""
    input:
        stores=stores("test"),
        documents="<results>/{run}/corpus/documents.parquet",
        tokenizer="<results>/{run}/corpus/tokenizer",
    output:
        "<results>/{run}/trust/nulls/labels.parquet",
    log:
        "<logs>/{run}/shuffle_labels.log",
    benchmark:
        "<benchmarks>/{run}/shuffle_labels.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("shuffle_labels", 2000),
        runtime=minutes(120),
    params:
        config=RUN.stage("trust"),
        routing=RUN.stage("routing"),
        seed=RUN.seed,
    message:
        "Shuffling the labels of run {wildcards.run}"
    script:
        "../workflow/scripts/shuffle_labels.py"


rule conclude_trust:
    """Put all nulls into one table, and say what was found and what may be believed."""
    input:
        planted="<results>/{run}/trust/planted.parquet",
        parts=[
            "<results>/{run}/trust/nulls/planted.parquet",
            *of_each_dictionary(
                "<results>/{run}/trust/nulls/{dictionary}/{window}.parquet"
            ),
            "<results>/{run}/trust/nulls/labels.parquet",
        ],
    output:
        nulls="<results>/{run}/trust/nulls.parquet",
        summary="<results>/{run}/trust/summary.json",
    log:
        "<logs>/{run}/conclude_trust.log",
    benchmark:
        "<benchmarks>/{run}/conclude_trust.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("conclude_trust", 2000),
        runtime=minutes(30),
    message:
        "Concluding what may be believed of run {wildcards.run}"
    script:
        "../workflow/scripts/conclude_trust.py"


rule draw_trust:
    """Draw the figure of the certificate, and the page with its sentences and claims."""
    input:
        planted="<results>/{run}/trust/planted.parquet",
        nulls="<results>/{run}/trust/nulls.parquet",
        summary="<results>/{run}/trust/summary.json",
    output:
        figure=report(
            "<results>/{run}/trust/figure.svg",
            caption="../workflow/report/trust.rst",
            category="Trust",
        ),
        copies=[
            f"<results>/{{run}}/trust/figure.{kind}"
            for kind in RUN.report.formats
            if kind != "svg"
        ],
        page=report(
            "<results>/{run}/trust/page.html",
            caption="../workflow/report/trust.rst",
            category="Trust",
        ),
    log:
        "<logs>/{run}/draw_trust.log",
    benchmark:
        "<benchmarks>/{run}/draw_trust.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("draw_trust", 2000),
        runtime=minutes(30),
    message:
        "Drawing how far run {wildcards.run} may be believed"
    script:
        "../workflow/scripts/draw_trust.py"
