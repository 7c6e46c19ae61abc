"""Text in, packed sequences of tokens out.

In:  the corpus that the configuration names
Out: <results>/{run}/corpus/tokenizer, corpus/{split}/{shard}.zarr, corpus/documents.parquet
"""


rule prepare_tokenizer:
    """Copy the model's tokenizer, or train one on the train split."""
    output:
        directory("<results>/{run}/corpus/tokenizer"),
    log:
        "<logs>/{run}/prepare_tokenizer.log",
    benchmark:
        "<benchmarks>/{run}/prepare_tokenizer.tsv"
    conda:
        "../envs/deepseemoe.yaml"
    threads: 2
    resources:
        mem_mb=memory("prepare_tokenizer", 3000),
        runtime=minutes(120),
    params:
        config=RUN.stage("corpus"),
        model={key: RUN.stage("model")[key] for key in ("source", "name", "revision")},
        files=(TEXT_FILES, MODEL_FILES),
        seed=RUN.seed,
    message:
        "Preparing the tokenizer of run {wildcards.run}"
    script:
        "../workflow/scripts/prepare_tokenizer.py"


rule pack_corpus:
    """Filter and split documents; pack their tokens into sequences; list what was kept and dropped."""
    input:
        tokenizer=in_this_run("<results>/{run}/corpus/tokenizer"),
    output:
        # In this order: for each file that is asked for Snakemake goes through them from the start.
        documents=in_this_run("<results>/{run}/corpus/documents.parquet"),
        test=directory(in_this_run(corpus_shards("test"))),
        select=directory(in_this_run(corpus_shards("select"))),
        train=directory(in_this_run(corpus_shards("train"))),
    log:
        in_this_run("<logs>/{run}/pack_corpus.log"),
    benchmark:
        in_this_run("<benchmarks>/{run}/pack_corpus.tsv")
    conda:
        "../envs/deepseemoe.yaml"
    threads: 2
    resources:
        mem_mb=memory("pack_corpus", 3000),
        runtime=minutes(240),
    params:
        config=RUN.stage("corpus"),
        files=TEXT_FILES,
        seed=RUN.seed,
    message:
        in_this_run("Packing the corpus of run {run}")
    script:
        "../workflow/scripts/pack_corpus.py"
