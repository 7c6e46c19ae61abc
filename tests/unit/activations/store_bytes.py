"""Comparing stores byte for byte."""


def files(folder):
    """Return the bytes of all files below a folder, by their place in it."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
