"""Kernels compile to machine code for GPUs, with all types that they are used with."""

import os
from importlib import import_module

import pytest

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET", "0") == "1", reason="Triton interprets in this process"
)

I64, FLOATS = "*i64", ("*fp32", "*bf16", "*fp64")
WIDE, NARROW = {"TILE": 512, "ENTRIES": 8}, {"TILE": 64, "ENTRIES": 32}


def signatures(table):
    """Each kernel's arguments for a table of some type, constants apart, and its constants."""
    of = "*fp64" if table == "*fp64" else "*fp32"
    sums = [table, "i32", I64, I64, of, of, "i32"]
    pieces = [of, "i32", table, "i32", I64, I64, of, "i32", "i32"]
    adam = [table, "i32", I64, I64, of, of, I64, of, of, of, of, "i32"]
    return [
        ("weighted_sums", "_weighted_sums", sums, WIDE),
        ("weighted_sums", "_weighted_sums", sums, NARROW),
        ("dot_products", "_pieces", pieces, NARROW),
        ("dot_products", "_fold", [of, of, "i32", "i32"], {"FOLD": 1024}),
        ("above", "_count", [table, "i32", table, I64, "i32"], {"WIDTH": 1024}),
        ("above", "_write", [table, "i32", table, I64, I64, I64, table, "i32"], {"WIDTH": 1024}),
        ("rows_adam", "_rows_adam", adam, {"HAS_EXTRA": False, **WIDE}),
        ("rows_adam", "_rows_adam", adam, {"HAS_EXTRA": True, **NARROW}),
    ]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("table", FLOATS)
def test_kernels_compile(table, capability, tmp_path, monkeypatch):
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from deepseemoe.dictionary.kernels.tiles import OPTIONS

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for module, name, given, constants in signatures(table):
        kernel = getattr(import_module(f"deepseemoe.dictionary.kernels.{module}"), name)
        types = iter(given)
        signature = {
            argument: "constexpr" if argument in constants else next(types)
            for argument in kernel.arg_names
        }
        source = ASTSource(kernel, signature, constants)
        target = GPUTarget("cuda", capability, 32)
        compiled = triton.compile(source, target=target, options=OPTIONS)
        assert len(compiled.asm["cubin"]) > 0, (module, name)
