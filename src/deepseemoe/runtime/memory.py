"""Memory: how much is free on a device, and what to write where there was too little."""

import re

GIB = 2**30
_TOGETHER = "lower batches.together, or batch_tokens or d_dict of the dictionaries"
_ADVICE = {
    "train_model": "lower model.training.batch_sequences",
    "train_dictionary": "lower batch_tokens or d_dict of the dictionary, or spread it over more "
    "GPUs (as devices.dictionary: 2)",
    "train_together": _TOGETHER,
    "train_round": _TOGETHER,
    "train_last_round": _TOGETHER,
    "train_live": "lower batches.buffer_tokens, activations.batch_sequences, or batch_tokens of "
    "the dictionaries",
}
_TO_RUN_THE_MODEL = (
    "lower activations.batch_sequences or corpus.sequence_length, or spread the model over more "
    "GPUs (as devices.activations: 2)"
)
_RUN_THE_MODEL = (
    *("cache_", "evaluate_", "measure_effects", "measure_saturation", "map_writes"),
    *("compare_centroids", "randomise_model", "judge_worlds"),
)
"""How the names begin of rules that load a model"""
_TO_READ_LESS = "lower corpus.n_tokens or d_dict, or run it where there is more memory"


def free_bytes(device: str) -> int:
    """Return the bytes free on `cpu` or a GPU, with those that torch holds and does not use."""
    if device == "cpu":
        import psutil

        return psutil.virtual_memory().available
    import torch

    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def out_of_memory(error: BaseException, rule: str) -> str | None:
    """Return one line about a lack of memory, and what the user of `rule` can do; else None."""
    text = " ".join(str(error).split())
    is_lack = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not is_lack and "DefaultCPUAllocator" not in text:
        return None
    asked = re.search(r"to allocate ([\d.]+ \w+)", text)
    free = re.search(r"([\d.]+ \w+) is free", text)
    told = [f"{asked[1]} were asked for" if asked else "", f"{free[1]} were free" if free else ""]
    counts = " and ".join(filter(None, told)) or text[:200] or "no more was to be had"
    others = _TO_RUN_THE_MODEL if rule.startswith(_RUN_THE_MODEL) else _TO_READ_LESS
    return f"out of memory: {counts}; {_ADVICE.get(rule.rstrip('_0123456789'), others)}"
