"""The width of a model, from its configuration alone."""

from deepseemoe.config import ModelConfig
from deepseemoe.model.checkpoint import open_checkpoint
from deepseemoe.model.outline import outline


def width_of(config: ModelConfig) -> int:
    """Return d_model: of a model of others by its config.json, else as configured.

    Raises OSError where config.json cannot be had, and ValueError for no known family.
    """
    if config.source != "hub":
        return config.architecture.d_model
    return outline(open_checkpoint(config.trained, None)).d_model
