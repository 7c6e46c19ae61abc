"""Which dictionaries are trained, in which jobs, and which are imported."""

from deepseemoe.plan.together import fits_gpus, width_of


def groups():
    """Return the dictionaries that each job of training_together.smk trains."""
    together = RUN.batches.together
    if together == "auto" and RUN.devices.on_gpu("dictionary"):
        return groups_of(RUN, fits_gpus(RUN, width_of(RUN)))
    return groups_of(RUN, at_most(1 if together == "auto" else together))


def of_group(group, file):
    """Return a file of each dictionary of a group."""
    return [
        f"<results>/{{run}}/dictionary/{name}/{window}/{file}" for name, window in group
    ]


def imported():
    """Return the dictionaries that are read from files of other tools."""
    return [name for name, entry in RUN.dictionaries.items() if entry.imported]


def trained():
    """Return the dictionaries that the run trains."""
    return [name for name in RUN.dictionaries if name not in imported()]


def of_each_trained(pattern):
    """Return `pattern` for each dictionary that the run trains, and each window."""
    return expand(pattern, dictionary=trained(), window=WINDOWS, allow_missing=True)


def imported_params(dictionary):
    """Return what of an entry says which files are read, and what they must have."""
    wanted = ("imported", "d_dict", "k")
    return {key: RUN.dictionary(dictionary)[key] for key in wanted}


def dictionary_processes():
    """Return how many processes on CPUs share a dictionary; GPUs have one each."""
    return 1 if RUN.devices.on_gpu("dictionary") else RUN.devices.processes


def model_training():
    """Return what the run's own model depends on, trained whether or not it is read."""
    left_out = ("random_weights",)
    return {
        key: value for key, value in RUN.stage("model").items() if key not in left_out
    }
