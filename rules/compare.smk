"""The target `compare`: finished runs side by side. Not part of `all`; none of the runs is made.

In:  tables of the runs that `compare.runs` names
Out: <results>/{run}/compare
"""


localrules:
    compare,


rule compare:
    """Compare the finished runs that `compare.runs` names: tables, a figure and a page."""
    input:
        f"<results>/{RUN.name}/compare/page.html",


rule compare_runs:
    """Put the tables of finished runs side by side, with measures that compare."""
    output:
        load="<results>/{run}/compare/load.parquet",
        specialisation="<results>/{run}/compare/specialisation.parquet",
        maps="<results>/{run}/compare/maps.parquet",
        dictionaries="<results>/{run}/compare/dictionaries.parquet",
        labels="<results>/{run}/compare/labels.parquet",
        recovery="<results>/{run}/compare/recovery.parquet",
        contrast="<results>/{run}/compare/contrast.parquet",
        runs="<results>/{run}/compare/runs.json",
    log:
        "<logs>/{run}/compare_runs.log",
    benchmark:
        "<benchmarks>/{run}/compare_runs.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("compare_runs", 2000),
        runtime=minutes(60),
    params:
        config=RUN.stage("compare"),
        files=compared_files(),
        seed=RUN.seed,
    message:
        "Comparing the runs that compare.runs names"
    script:
        "../workflow/scripts/compare_runs.py"


rule draw_comparison:
    """Draw the figure of the comparison, and the page with its tables."""
    input:
        tables=rules.compare_runs.output,
    output:
        figure=report(
            "<results>/{run}/compare/figure.svg",
            caption="../workflow/report/comparison.rst",
            category="Comparison",
        ),
        copies=[
            f"<results>/{{run}}/compare/figure.{kind}"
            for kind in RUN.report.formats
            if kind != "svg"
        ],
        page=report(
            "<results>/{run}/compare/page.html",
            caption="../workflow/report/comparison.rst",
            category="Comparison",
        ),
    log:
        "<logs>/{run}/draw_comparison.log",
    benchmark:
        "<benchmarks>/{run}/draw_comparison.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("draw_comparison", 2000),
        runtime=minutes(30),
    message:
        "Drawing the comparison of runs"
    script:
        "../workflow/scripts/draw_comparison.py"
