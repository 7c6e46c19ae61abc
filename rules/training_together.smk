"""Stores of the train split in, sparse dictionaries out, several from one pass (batches.together).

In:  <results>/{run}/activations/{split}/{shard}.zarr
Out: <results>/{run}/dictionary/{dictionary}/{window}
"""

for number, group in enumerate(groups()):

    rule:
        # Train a group of sparse dictionaries from one pass over the stores.
        name:
            f"train_together_{number:02d}"
        input:
            train=stores("train"),
            select=stores("select"),
        output:
            weights=of_group(group, "weights.safetensors"),
            config=of_group(group, "config.json"),
            training=of_group(group, "training.parquet"),
        log:
            f"<logs>/{{run}}/train_together/{number:02d}.log",
        benchmark:
            f"<benchmarks>/{{run}}/train_together/{number:02d}.tsv"
        conda:
            "../envs/deepseemoe.yaml"
        threads: 1
        resources:
            **gpu("dictionary"),
            mem_mb=memory("train_together", 3000),
            runtime=minutes(720),
        params:
            members=[(name, str(window)) for name, window in group],
            dictionaries={name: RUN.dictionary(name) for name, _ in group},
            processes=dictionary_processes(),
            seed=RUN.seed,
        message:
            f"Training {len(group)} dictionaries together"
        script:
            "../workflow/scripts/train_together.py"
