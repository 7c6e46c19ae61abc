"""Weights read from a checkpoint, all of them, or none.

transformers fills what a checkpoint lacks with random numbers and drops what it does not know, and
tells either in a table of warnings. Here both are errors, but for what is dropped on purpose: later
layers than asked for, the head, layers that predict several tokens, a vision model.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import cached_file

from deepseemoe.model.checkpoint import Checkpoint
from deepseemoe.model.weight_files import check_weight_files
from deepseemoe.runtime.hub import hub_errors

_TEXT_MODEL = {r"^language_model\.model\.": "model.", r"^language_model\.lm_head\.": "lm_head."}
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_EXPERT = re.compile(r"(.*layers\.\d+\..*experts)\.(\d+)\.")
_SHOWN = 3


def read_network(checkpoint: Checkpoint, *, head: bool, **options: Any) -> PreTrainedModel:
    """Return the network with its weights; `options` go to transformers' `from_pretrained`.

    Raises ValueError where the checkpoint lacks weights, holds others than its configuration names,
    or some of another shape.
    """
    where, revision = checkpoint.where, checkpoint.revision
    if Path(where).is_dir():
        check_weight_files(Path(where))
    auto = AutoModelForCausalLM if head else AutoModel
    with hub_errors(where, revision), _report_kept(where):
        network, found = auto.from_pretrained(
            where,
            revision=revision,
            trust_remote_code=False,
            use_safetensors=True,  # all else is a pickle
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told with all else, below
            key_mapping=_TEXT_MODEL if checkpoint.is_multimodal else None,
            **options,
        )
    extra = [key for key in found["unexpected_keys"] if not _is_dropped(key, checkpoint, network)]
    problems = [
        _told("not there", found["missing_keys"]),
        _told("not of this model", extra),
        _told("of another shape", map(_shapes, found["mismatched_keys"])),
        _told("not numbered from 0 without a gap", _misnumbered(where, revision)),
    ]
    _refuse(where, filter(None, problems))
    return network


def _refuse(where: str, problems: Iterable[str]) -> None:
    told = "; ".join(problems)
    if told:
        raise ValueError(
            f"{where}: the weights do not fit config.json: {told}; fetch the checkpoint again"
        )


def _told(what: str, keys: Iterable[str]) -> str | None:
    """Return how many weights are `what`, and a few of them; None where there are none."""
    names = sorted(keys)
    shown = ", ".join(names[:_SHOWN]) + " …" * (len(names) > _SHOWN)
    return f"{len(names)} {what} ({shown})" if names else None


def _shapes(mismatch: tuple[str, Iterable[int], Iterable[int]]) -> str:
    key, found, expected = mismatch
    return f"{key} is {tuple(found)}, expected {tuple(expected)}"


def _is_dropped(key: str, checkpoint: Checkpoint, network: PreTrainedModel) -> bool:
    """Whether a weight that the network has no place for was left out on purpose."""
    if checkpoint.is_multimodal and not key.startswith(("model.", "lm_head.")):
        return True
    if re.search(r"(^|\.)mtp|rotary_emb\.inv_freq$", key):
        return True
    config = checkpoint.network_config
    layer = _LAYER.search(key)
    if layer and int(layer[1]) >= network.config.num_hidden_layers:
        n_predicting = getattr(config, "num_mtp_layers", None) or 0  # multi-token prediction
        return int(layer[1]) < checkpoint.n_layers + n_predicting
    is_base = not hasattr(network, "model")
    return key.startswith("lm_head.") and (is_base or config.tie_word_embeddings)


@contextmanager
def _report_kept(where: str) -> Iterator[None]:
    """Keep transformers' table of weights from the console, and tell its errors in one line."""
    tables: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        tables.extend([text] * ("LOAD REPORT" in text))
        return "LOAD REPORT" not in text

    reporter = logging.getLogger("transformers.modeling_utils")
    reporter.addFilter(keep)
    try:
        yield
    except RuntimeError:  # where weights that become one do not fit each other
        if not tables:
            raise
        broken = re.findall(r"^(\S+)\s*\| \S*CONVERSION", tables[-1], re.MULTILINE)
        _refuse(where, filter(None, [_told("cannot be put together", broken)]))
        raise
    finally:
        reporter.removeFilter(keep)


def _misnumbered(where: str, revision: str | None) -> list[str]:
    """Return the groups of experts of a checkpoint whose numbers leave a gap.

    transformers stacks experts in their order, whatever their numbers, so that one which is left
    out moves those after it.
    """
    numbers: dict[str, set[int]] = {}
    for name in _names(where, revision):
        if match := _EXPERT.match(name):
            numbers.setdefault(match[1], set()).add(int(match[2]))
    return [group for group, found in numbers.items() if len(found) != max(found) + 1]


def _names(where: str, revision: str | None) -> Iterable[str]:
    """Return the names of the weights in a checkpoint of safetensors, which are at hand by now."""
    files = ("model.safetensors.index.json", "model.safetensors")
    find = partial(cached_file, where, revision=revision, local_files_only=True)
    with suppress(OSError):  # not in several files
        return json.loads(Path(find(files[0])).read_text(encoding="utf-8"))["weight_map"]
    with suppress(OSError), safe_open(find(files[1]), "pt") as weights:  # not of safetensors
        return list(weights.keys())
    return ()
