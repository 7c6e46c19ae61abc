"""The target `justify`: should a dictionary span layers, which, and how many? Not part of `all`.

In:  <results>/{run}/corpus/{split}/{shard}.zarr, model
Out: <results>/{run}/justify
"""


localrules:
    justify,


rule justify:
    """Compare crosscoders of every window with separate SAEs; write one table, one figure, three sentences."""
    input:
        justification,


rule randomise_model:
    """Draw the weights of the run's model anew, untrained."""
    input:
        model=trained_model_folder(),
    output:
        directory("<results>/{run}/justify/random_model"),
    log:
        "<logs>/{run}/randomise_model.log",
    benchmark:
        "<benchmarks>/{run}/randomise_model.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("randomise_model", 2000),
        runtime=minutes(60),
    params:
        model=model_params(),
        seed=RUN.seed,
    message:
        "Drawing random weights for the model of run {wildcards.run}"
    script:
        "../workflow/scripts/randomise_model.py"


rule cache_layers:
    """Cache the residual stream of every layer that windows are tried on, and its routing."""
    input:
        tokens="<results>/{run}/corpus/{split}/{shard}.zarr",
        model=justified_model,
    output:
        directory("<results>/{run}/justify/activations/{weights}/{split}/{shard}.zarr"),
    log:
        "<logs>/{run}/cache_layers/{weights}-{split}-{shard}.log",
    benchmark:
        "<benchmarks>/{run}/cache_layers/{weights}-{split}-{shard}.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        **gpu("activations"),
        mem_mb=memory("cache_layers", 2000),
        runtime=minutes(240),
    params:
        config=RUN.stage("activations"),
        sites=JUSTIFIED_SITES,
        model=model_params(),
        n_layers=JUSTIFIED.last + 2 if JUSTIFIED else None,
        files=MODEL_FILES,
        seed=RUN.seed,
    message:
        "Caching layers of the {wildcards.weights} model, {wildcards.split} shard {wildcards.shard}"
    script:
        "../workflow/scripts/cache_layers.py"


rule train_arm:
    """Train one dictionary of the experiment; arms that need the same one share it."""
    input:
        train=justified_stores("train"),
        select=justified_stores("select"),
    output:
        weights="<results>/{run}/justify/dictionary/{arm}/{window}/{seed}/weights.safetensors",
        config="<results>/{run}/justify/dictionary/{arm}/{window}/{seed}/config.json",
        training="<results>/{run}/justify/dictionary/{arm}/{window}/{seed}/training.parquet",
    log:
        "<logs>/{run}/train_arm/{arm}-{window}-{seed}.log",
    benchmark:
        "<benchmarks>/{run}/train_arm/{arm}-{window}-{seed}.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        **gpu("dictionary", most=1),
        mem_mb=memory("train_arm", 2000),
        runtime=minutes(720),
    params:
        config=justify_training(),
    message:
        "Training {wildcards.arm} on {wildcards.window} with seed {wildcards.seed}"
    script:
        "../workflow/scripts/train_arm.py"


rule evaluate_arms:
    """Measure all arms of one window and seed on held-out documents."""
    input:
        dictionaries=justified_dictionaries,
        select=justified_stores("select"),
        test=justified_stores("test"),
        tokens=corpus_shards("test"),
        model=model_folder(),
    output:
        sums="<results>/{run}/justify/evaluation/{weights}/{window}/{seed}/sums.parquet",
        metrics="<results>/{run}/justify/evaluation/{weights}/{window}/{seed}/metrics.json",
    log:
        "<logs>/{run}/evaluate_arms/{weights}-{window}-{seed}.log",
    benchmark:
        "<benchmarks>/{run}/evaluate_arms/{weights}-{window}-{seed}.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        **gpu("evaluation"),
        mem_mb=memory("evaluate_arms", 2000),
        runtime=minutes(240),
    params:
        config=justify_evaluation(),
        model=model_params(),
    message:
        "Evaluating the arms of {wildcards.window}, seed {wildcards.seed}, {wildcards.weights} model"
    script:
        "../workflow/scripts/evaluate_arms.py"


rule measure_stability:
    """Compare the features that dictionaries of different seeds found on one window."""
    input:
        stability_dictionaries,
    output:
        "<results>/{run}/justify/stability/{window}.json",
    log:
        "<logs>/{run}/measure_stability/{window}.log",
    benchmark:
        "<benchmarks>/{run}/measure_stability/{window}.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("measure_stability", 2000),
        runtime=minutes(60),
    params:
        members=stability_members,
        seeds=RUN.justify.seeds,
    message:
        "Comparing the seeds of {wildcards.window}"
    script:
        "../workflow/scripts/measure_stability.py"


rule compare_arms:
    """Put all arms into one table, choose width and layers by the rules, and say what was found."""
    input:
        sums=justified_sums(),
        stability=expand(
            "<results>/{{run}}/justify/stability/{window}.json",
            window=JUSTIFIED_WINDOWS,
        ),
        select=expand(
            "<results>/{{run}}/justify/activations/trained/select/{shard}.zarr",
            shard=shards("select")[:1],
        ),
    output:
        table="<results>/{run}/justify/table.parquet",
        finding="<results>/{run}/justify/finding.json",
    log:
        "<logs>/{run}/compare_arms.log",
    benchmark:
        "<benchmarks>/{run}/compare_arms.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("compare_arms", 2000),
        runtime=minutes(60),
    params:
        config=RUN.stage("justify"),
        layers=str(JUSTIFIED),
    message:
        "Comparing the arms of run {wildcards.run}"
    script:
        "../workflow/scripts/compare_arms.py"


rule draw_justification:
    """Draw the figure of the comparison, and the page with its sentences and table."""
    input:
        table="<results>/{run}/justify/table.parquet",
        finding="<results>/{run}/justify/finding.json",
    output:
        figure=report(
            "<results>/{run}/justify/figure.svg",
            caption="../workflow/report/justification.rst",
            category="Justification",
        ),
        copies=[
            f"<results>/{{run}}/justify/figure.{kind}"
            for kind in RUN.report.formats
            if kind != "svg"
        ],
        page=report(
            "<results>/{run}/justify/page.html",
            caption="../workflow/report/justification.rst",
            category="Justification",
        ),
    log:
        "<logs>/{run}/draw_justification.log",
    benchmark:
        "<benchmarks>/{run}/draw_justification.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("draw_justification", 2000),
        runtime=minutes(30),
    message:
        "Drawing what the comparison of run {wildcards.run} found"
    script:
        "../workflow/scripts/draw_justification.py"
