"""The arrays of a store that dictionaries read and write, by name."""

from deepseemoe.names import Site, Window


def site_names(hook_point: str, window: Window) -> tuple[str, ...]:
    """Return the arrays of a hook point over a window, in order of layers."""
    return tuple(str(Site(hook_point, layer)) for layer in window.layers)


def written_names(
    reads: str, writes: str, window: Window, *, reconstruct_input: bool = False
) -> tuple[str, ...]:
    """Return the arrays that a dictionary writes, slot by slot (see `layout`)."""
    points = (reads, writes) if reconstruct_input else (writes,)
    return tuple(str(Site(point, layer)) for layer in window.layers for point in points)
