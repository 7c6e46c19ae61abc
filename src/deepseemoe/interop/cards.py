"""README.md of an export, a model card: what the dictionary is and measures, how to load it."""

from collections.abc import Sequence

from deepseemoe.dictionary.dictionary import Dictionary

HEAD = """---
tags: [sparse-dictionary, {kind}, mixture-of-experts, deepseemoe]
library_name: {library}
{base}---

# {title}

A sparse dictionary of {d_dict} features, trained by DeepSeeMoE and written for {format}.

| | |
|---|---|
{rows}

## This export

{notes}

## Use

{use}
"""


def card(
    dictionary: Dictionary,
    *,
    format: str,
    library: str,
    model: str,
    notes: Sequence[str],
    use: str,
) -> str:
    """Return the text of a card; `notes` say what is exact here and what is not."""
    return HEAD.format(
        kind=dictionary.kind,
        library=library,
        base=f"base_model: {model}\n" if "/" in model else "",
        title=f"{dictionary.kind} on {dictionary.window} of {model}",
        d_dict=dictionary.d_dict,
        format=format,
        rows="\n".join(f"| {name} | {value} |" for name, value in _rows(dictionary, model)),
        notes="\n".join(f"- {note}" for note in notes),
        use=use,
    )


def _rows(dictionary: Dictionary, model: str) -> list[tuple[str, str]]:
    l0 = "not measured" if dictionary.l0 is None else f"{dictionary.l0:.4g}"
    return [
        ("model", model),
        ("kind", dictionary.kind),
        ("window of layers, counted from 0", str(dictionary.window)),
        ("reads", ", ".join(dictionary.read_names)),
        ("writes", ", ".join(dictionary.written_names)),
        ("d_model", str(dictionary.d_model)),
        ("features", str(dictionary.d_dict)),
        ("activation function in training", dictionary.activation),
        ("k, features a token that were asked for", str(dictionary.k)),
        ("L0 on held-out tokens", l0),
    ]
