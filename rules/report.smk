"""All tables in, figures and a page to read out.

In:  everything above
Out: <results>/{run}/report, <results>/{run}/config.yaml
"""


rule write_config:
    """Write down the resolved configuration of the run and the versions of what it runs on."""
    output:
        "<results>/{run}/config.yaml",
    log:
        "<logs>/{run}/write_config.log",
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=500,
    params:
        run=RUN.model_dump(mode="json"),
    script:
        "../workflow/scripts/write_config.py"


rule draw_figures:
    """Draw the figures that a researcher opens first."""
    input:
        model=model_folder(),
        training=of_each_trained(
            "<results>/{run}/dictionary/{dictionary}/{window}/training.parquet"
        ),
        metrics=of_each_dictionary(
            "<results>/{run}/dictionary/{dictionary}/{window}/metrics.json"
        ),
        density=of_each_dictionary(
            "<results>/{run}/features/{dictionary}/{window}/density.parquet"
        ),
        reads=of_each_dictionary(
            "<results>/{run}/experts/{dictionary}/{window}/reads.parquet"
        ),
        evidence=of_each_dictionary(
            [
                "<results>/{run}/experts/{dictionary}/{window}/agreement.parquet",
                "<results>/{run}/experts/{dictionary}/{window}/summary.json",
            ]
        ),
        predictions=of_each_dictionary(
            "<results>/{run}/prediction/{dictionary}/{window}/scores.parquet"
        ),
        features=of_each_dictionary(
            "<results>/{run}/labels/{dictionary}/{window}/features.parquet"
        ),
        scores=of_each_dictionary(
            "<results>/{run}/labels/{dictionary}/{window}/scores.parquet"
        ),
        routing=rules.tabulate_routing.output,
    output:
        figures(),
        copies_of_figures(),
    log:
        "<logs>/{run}/draw_figures.log",
    benchmark:
        "<benchmarks>/{run}/draw_figures.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("draw_figures", 2000),
        runtime=minutes(60),
    params:
        run=RUN.model_dump(mode="json"),
    message:
        "Drawing the figures of run {wildcards.run}"
    script:
        "../workflow/scripts/draw_figures.py"


rule write_summary:
    """Write the page that tells what the run found and how far to believe it."""
    input:
        rules.draw_figures.output,
        rules.draw_figures.input,
        documents="<results>/{run}/corpus/documents.parquet",
        examples=of_each_dictionary(
            "<results>/{run}/features/{dictionary}/{window}/examples.parquet"
        ),
        experts=of_each_dictionary(
            "<results>/{run}/labels/{dictionary}/{window}/experts.parquet"
        ),
        writes=of_each_dictionary(
            "<results>/{run}/experts/{dictionary}/{window}/writes.parquet"
        ),
    output:
        report(
            "<results>/{run}/report/summary.html",
            caption="../workflow/report/summary.rst",
            category="Summary",
        ),
    log:
        "<logs>/{run}/write_summary.log",
    benchmark:
        "<benchmarks>/{run}/write_summary.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("write_summary", 2000),
        runtime=minutes(60),
    params:
        run=RUN.model_dump(mode="json"),
    message:
        "Writing the summary of run {wildcards.run}"
    script:
        "../workflow/scripts/write_summary.py"
