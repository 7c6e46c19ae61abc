"""Published SAEs in, the same files out as training leaves.

In:  files of other tools, named in the configuration
Out: <results>/{run}/dictionary/{dictionary}/{window}
"""


rule import_dictionary:
    """Read a published SAE of one layer in place of training one."""
    output:
        weights="<results>/{run}/dictionary/{dictionary}/{window}/weights.safetensors",
        config="<results>/{run}/dictionary/{dictionary}/{window}/config.json",
    log:
        "<logs>/{run}/import_dictionary/{dictionary}-{window}.log",
    benchmark:
        "<benchmarks>/{run}/import_dictionary/{dictionary}-{window}.tsv"
    wildcard_constraints:
        dictionary="|".join(imported()),
    conda:
        "../envs/deepseemoe.yaml"
    threads: 1
    resources:
        mem_mb=memory("import_dictionary", 2000),
        runtime=minutes(60),
    params:
        config=lambda wildcards: imported_params(wildcards.dictionary),
        model=model_params(),
        files=IMPORTED_FILES,
    message:
        "Importing {wildcards.dictionary} on {wildcards.window}"
    script:
        "../workflow/scripts/import_dictionary.py"
