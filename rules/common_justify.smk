"""Which files and keys the target `justify` reads and makes."""


def justified_stores(split):
    """Return a function of the wildcards `arm` or `weights`: the stores `justify` reads of a split."""
    n_tokens = {
        "train": RUN.justify.n_tokens,
        "select": RUN.corpus.n_tokens.select,
        "test": RUN.justify.test_tokens,
    }[split]
    # A shard more than the tokens fill: position 0 of every document is not valid.
    n_shards = min(RUN.corpus.n_shards(split), n_tokens // RUN.corpus.shard_tokens + 1)

    def of(wildcards):
        weights = wildcards.get("weights") or wildcards.arm.split("-")[0]
        return [
            f"<results>/{{run}}/justify/activations/{weights}/{split}/{shard}.zarr".replace(
                "shuffled", "trained"
            )
            for shard in shards(split)[:n_shards]
        ]

    return of


def justified_dictionaries(wildcards):
    """Return the weights of all dictionaries that the arms of a window and seed are made of."""
    config, window = RUN.justify, plan.Window.parse(wildcards.window)
    arms = plan.evaluated(config, window, wildcards.weights, int(wildcards.seed))
    found = [one for arm in arms for one in plan.members(config, arm, window)]
    folder = "<results>/{{run}}/justify/dictionary/{}/{}/{{seed}}/weights.safetensors"
    return list(dict.fromkeys(folder.format(one.arm, one.window) for one in found))


def justification(wildcards):
    """Return what the target `justify` makes; end where its configuration forbids it."""
    with told():
        if found := list(plan.plan_problems(RUN)):
            raise ValueError("\n".join(found))
    files = ("table.parquet", "finding.json", "figure.svg", "page.html")
    return [f"<results>/{RUN.name}/justify/{file}" for file in files]


def justified_sums():
    """Return the sums of every evaluation of `justify`."""
    pattern = "<results>/{{run}}/justify/evaluation/{}/{}/{}/sums.parquet"
    return [pattern.format(*which) for which in plan.evaluations(RUN)]


def stability_members(wildcards):
    """Return the dictionaries of each arm of a window that all seeds train, as in their paths."""
    window = plan.Window.parse(wildcards.window)
    arms = [arm for arm in plan.arms_of(RUN.justify, window) if arm in plan.ALL_SEEDS]
    return {
        arm: [f"{m.arm}/{m.window}" for m in plan.members(RUN.justify, arm, window)]
        for arm in arms
    }


def stability_dictionaries(wildcards):
    """Return the weights that `stability_members` names, of all seeds."""
    return [
        f"<results>/{{run}}/justify/dictionary/{one}/{seed}/weights.safetensors"
        for one in dict.fromkeys(sum(stability_members(wildcards).values(), []))
        for seed in RUN.justify.seeds
    ]


def justified_model(wildcards):
    """Return the folder of the model with trained or random weights, as an input."""
    is_random = wildcards.weights == "random"
    return ["<results>/{run}/justify/random_model"] if is_random else model_folder()


def justify_training():
    """Return the keys of `justify` that a dictionary's training depends on; size and k are its arm."""
    keys = (
        "n_tokens",
        "batch_tokens",
        "learning_rate",
        "init_norm",
        "checkpoint_steps",
        "format",
    )
    return {key: RUN.stage("justify")[key] for key in keys}


def justify_evaluation():
    """Return `justify` without what only decides on, or adds to, what was evaluated."""
    later = ("layers", "widths", "endpoint", "max_fvu", "n_bootstrap", "confidence")
    return {
        key: value for key, value in RUN.stage("justify").items() if key not in later
    }
