"""The subcommands `export` and `import`: their arguments, and what they print."""

import argparse
from pathlib import Path

from deepseemoe.config import ImportedConfig
from deepseemoe.names import Window

EXPORTS = (
    "saelens",
    "sparsify",
    "dictionary_learning",
    "circuit_tracer",
    "portable",
    "neuronpedia",
    "delphi",
)
IMPORTS = ("saelens", "dictionary_learning")

EXPORT_HELP = "write a dictionary, or what its features do, in the format of another tool"
EXPORT_DESCRIPTION = """Write a trained dictionary in the format of another tool, to a new folder.

Normalisation is folded in, so what is written reads and writes raw activations. Exact everywhere
but from BatchTopK to sparsify, which its README.md says. What a format cannot express is refused.

  saelens              crosscoders (layers side by side) and transcoders (a folder a source layer)
  sparsify             TopK exactly, BatchTopK with the same k for each token
  dictionary_learning  crosscoders, and transcoders that write the layer they read
  circuit_tracer       transcoders, per layer or cross-layer, padded with zeros to the whole model
  portable             everything: safetensors, JSON, and a README.md with the code to use it

What features do, their contexts and descriptions, is read from the run around the dictionary:

  neuronpedia          JSON lines to import: features, contexts, explanations with their scores
  delphi               where features fire on the test text, for its explainers and scorers"""
EXPORT_EXAMPLES = """examples:
  deepseemoe export results/tiny/dictionary/crosscoder/L00-L01 --to saelens --out sae
  deepseemoe export results/gpt-oss-20b/dictionary/transcoder/L11-L13 --to circuit_tracer \\
    --n-layers 24 --model openai/gpt-oss-20b --out clt
  deepseemoe export results/tiny/dictionary/crosscoder/L00-L01 --to neuronpedia --out np
  deepseemoe export results/tiny/dictionary/crosscoder/L00-L01 --to delphi --out latents"""

IMPORT_HELP = "read a published SAE of the residual stream"
IMPORT_DESCRIPTION = """Read a published SAE of resid_post and write it as a dictionary of a run.

  saelens              cfg.json and sae_weights.safetensors: standard, topk, jumprelu, gated, and
                       training checkpoints of batchtopk
  dictionary_learning  config.json and ae.pt: AutoEncoder(New), AutoEncoderTopK, BatchTopKSAE,
                       MatryoshkaBatchTopKSAE, JumpReluAutoEncoder, GatedAutoEncoder

In a run, a dictionary of the configuration with the key `imported` is read in the same way."""
IMPORT_EXAMPLES = """examples:
  deepseemoe import sae/resid_post_layer_11/trainer_0 --from dictionary_learning \\
    --window L11-L11 --out dictionary/L11-L11"""

Commands = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_export(commands: Commands) -> argparse.ArgumentParser:
    """Add the subcommand `export` with its arguments, and return its parser."""
    export = commands.add_parser(
        "export",
        help=EXPORT_HELP,
        description=EXPORT_DESCRIPTION,
        epilog=EXPORT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument(
        "folder", type=Path, help="of the dictionary: results/RUN/dictionary/NAME/WINDOW"
    )
    export.add_argument("--to", required=True, choices=EXPORTS, metavar="FORMAT", help="see above")
    export.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    export.add_argument(
        "--model", metavar="NAME", help="name of the model, for the metadata; the run knows its own"
    )
    export.add_argument(
        "--n-layers",
        type=int,
        metavar="N",
        help="layers of the model, for circuit_tracer and neuronpedia",
    )
    return export


def add_import(commands: Commands) -> argparse.ArgumentParser:
    """Add the subcommand `import` with its arguments, and return its parser."""
    parser = commands.add_parser(
        "import",
        help=IMPORT_HELP,
        description=IMPORT_DESCRIPTION,
        epilog=IMPORT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", help="folder of the SAE; {layer} and {window} in it stand for the window's"
    )
    parser.add_argument(
        "--from", required=True, dest="format", choices=IMPORTS, metavar="FORMAT", help="see above"
    )
    parser.add_argument(
        "--window", required=True, metavar="L11-L11", help="the layer, from 0, as a window of one"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--k", type=int, metavar="N", help="active features a token, where the file says none"
    )
    return parser


def run_export(options: argparse.Namespace) -> str:
    """Export a dictionary and return what to tell the user."""
    from deepseemoe.interop.exporting import export_dictionary

    folder = export_dictionary(
        options.folder,
        format=options.to,
        folder=options.out,
        model=options.model,
        n_layers=options.n_layers,
    )
    n_files = sum(path.is_file() for path in folder.rglob("*"))
    return f"wrote {n_files} files to {folder}; {folder / 'README.md'} says how to load them"


def run_import(options: argparse.Namespace) -> str:
    """Import a dictionary and return what to tell the user."""
    from deepseemoe.interop.folders import new_folder
    from deepseemoe.interop.importing import import_dictionary

    window = Window.parse(options.window)
    source = ImportedConfig(format=options.format, folder=options.source).folder_of(window)
    with new_folder(options.out) as partial:
        found = import_dictionary(
            Path(source),
            format=options.format,
            window=window,
            folder=partial,
            k=options.k,
        )
    k = found.k or "not said"
    return (
        f"wrote {options.out}: {found.d_dict} features of d_model {found.d_model} on {window}, "
        f"{found.activation}, k {k}"
    )
