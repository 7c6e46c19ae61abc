"""Tokens and model in, activations and router decisions out, several shards from one loaded model.

In:  <results>/{run}/corpus/{split}/{shard}.zarr, model
Out: <results>/{run}/activations/{split}/{shard}.zarr
"""

for split, number, members in shard_groups():

    rule:
        # Run the model over neighbouring shards of a split; cache what it computes, as cache_activations.
        name:
            f"cache_shards_{split}_{number:04d}"
        input:
            tokens=in_this_run(of_shards("corpus", split, members)),
            model=in_this_run(model_folder()),
        output:
            directory(in_this_run(of_shards("activations", split, members))),
        log:
            f"<logs>/{RUN.name}/cache_activations/{split}-{members[0]}-{members[-1]}.log",
        benchmark:
            f"<benchmarks>/{RUN.name}/cache_activations/{split}-{members[0]}-{members[-1]}.tsv"
        conda:
            "../envs/deepseemoe.yaml"
        threads: 1
        resources:
            **gpu("activations"),
            mem_mb=memory("cache_activations", 3000),
            runtime=minutes(240),
        params:
            config=RUN.stage("activations"),
            sites=RUN.sites(),
            model=model_params(),
            n_layers=n_layers_read(),
            files=MODEL_FILES,
            seed=RUN.seed,
        message:
            f"Caching activations of {split} shards {members[0]} to {members[-1]}"
        script:
            "../workflow/scripts/cache_shards.py"
