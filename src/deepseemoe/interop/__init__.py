"""Dictionaries in the files of other tools: `export` writes them, `import` reads them.

One module a format. They write and read files with safetensors and JSON alone (and PyTorch's own
format where a tool has no other), so no peer is installed; `tests/peers` opens what is written in
each peer's own loader.
"""
