"""What a configured dictionary reads and writes, and the parts that its features fall into."""

from deepseemoe.config.dictionary import DictionaryConfig
from deepseemoe.dictionary.layout import Part, parts_of
from deepseemoe.dictionary.site_names import site_names, written_names
from deepseemoe.names import Window


def hook_points(config: DictionaryConfig) -> tuple[str, str]:
    """Return what a dictionary reads and what it writes."""
    if config.kind == "crosscoder":
        return "resid_post", "resid_post"
    return config.reads, "moe_out"


def read_and_written(
    config: DictionaryConfig, window: Window
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the arrays that a dictionary reads on a window, and those that it writes."""
    reads, writes = hook_points(config)
    both = config.kind == "transcoder" and config.reconstruct_input
    return site_names(reads, window), written_names(reads, writes, window, reconstruct_input=both)


def parts_in(config: DictionaryConfig, *, n_layers: int, grouped: bool = False) -> tuple[Part, ...]:
    """Return the parts of a dictionary; `grouped` cuts them at the ends of Matryoshka prefixes."""
    return parts_of(
        config.kind,
        n_layers=n_layers,
        d_dict=config.d_dict,
        cross_layer=config.cross_layer,
        reconstruct_input=config.reconstruct_input,
        prefixes=config.prefixes if grouped else (),
    )
