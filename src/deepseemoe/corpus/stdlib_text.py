"""Text in the source of Python's standard library: code, docstrings, comments and messages.

Every installation carries these files. Only modules that all platforms and packagers ship are read,
so that the same Python version gives the same text, wherever it is installed.
"""

import ast
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_LEFT_OUT = {
    # packaged apart by some (Debian, Alpine)
    *("distutils", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtle", "turtledemo", "venv"),
    # only on one platform, or changed by packagers
    *("msilib", "site", "sysconfig", "_aix_support", "_bootsubprocess", "_osx_support"),
    # read as tables and as reference
    *("encodings", "pydoc_data"),
}
_TESTS = {"test", "tests", "idle_test", "__pycache__"}
_COMMENT_BLOCK = re.compile(r"(?:^[ \t]*#.*\n)+", re.MULTILINE)
_COMMENT_MARK = re.compile(r"^[ \t]*#+[!:]? ?", re.MULTILINE)
_LEAST_COMMENT = 40  # characters: shorter ones are rulers and crumbs
_LEAST_MESSAGE = 20

_Documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Module(NamedTuple):
    """A module of the standard library: its path below the library's folder, source and syntax."""

    name: str
    source: str
    nodes: tuple[ast.AST, ...]
    """The module, and all nodes below it by rising depth."""


def library_folder() -> Path:
    """Return the folder of the standard library; raise ValueError where Python came without it."""
    folder = Path(sysconfig.get_path("stdlib"))
    if not (folder / "argparse.py").is_file():
        raise ValueError(
            f"{folder} holds no source of the standard library; install a full Python, "
            "or use corpus.source files"
        )
    return folder


def module_files(folder: Path) -> Iterator[Path]:
    """Yield the files of modules that every installation has, in the order of their names."""
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        package, *inner = path.relative_to(folder).with_suffix("").parts
        is_library = package in sys.stdlib_module_names and package not in _LEFT_OUT
        if is_library and not _TESTS & {package, *inner}:
            yield path


def read_module(path: Path, folder: Path) -> Module:
    """Read and parse one module."""
    with tokenize.open(path) as lines:
        source = lines.read()
    return Module(path.relative_to(folder).as_posix(), source, tuple(ast.walk(ast.parse(source))))


def docstrings(module: Module) -> list[str]:
    """Return the docstrings of a module, its classes and functions."""
    nodes = (node for node in module.nodes if isinstance(node, _Documented))
    return [text for text in map(ast.get_docstring, nodes) if text]


def comments(module: Module) -> list[str]:
    """Return the blocks of comment lines, without their number signs."""
    blocks = (
        _COMMENT_MARK.sub("", match[0]).strip() for match in _COMMENT_BLOCK.finditer(module.source)
    )
    return [block for block in blocks if len(block) >= _LEAST_COMMENT]


def messages(module: Module) -> list[str]:
    """Return strings of several words that are no docstrings: errors, help and warnings."""
    own = {id(node.body[0].value) for node in module.nodes if _has_docstring(node)}
    found = (
        " ".join(node.value.split())
        for node in module.nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in own
    )
    return [text for text in dict.fromkeys(found) if len(text) >= _LEAST_MESSAGE and " " in text]


def code(module: Module) -> list[str]:
    """Return the functions and classes of a module without docstrings and comments.

    Takes the docstrings out of `module.nodes`: read what else is wanted of it first.
    """
    for node in filter(_has_docstring, module.nodes):
        node.body = node.body[1:] or [ast.Pass()]
    return [ast.unparse(node) for node in module.nodes[0].body if isinstance(node, _Documented)]


def _has_docstring(node: ast.AST) -> bool:
    return isinstance(node, _Documented) and ast.get_docstring(node, clean=False) is not None
