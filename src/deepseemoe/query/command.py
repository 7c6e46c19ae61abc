"""The subcommand `look` of the console script."""

import argparse
from pathlib import Path
from typing import Any


def add_look(commands: Any) -> argparse.ArgumentParser:
    """Add the parser of `deepseemoe look` and return it."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "look", help="show an expert, a feature or a word of a finished run, or ask it in SQL"
    )
    parser.add_argument("results", type=Path, help="folder of the run, as results/tiny")
    parser.add_argument(
        "what",
        nargs="?",
        help="an expert (L01.E3), a feature (L00-L01.F00012) or a word of labels and tokens",
    )
    parser.add_argument("--sql", help="one SELECT over the run's tables, as in docs/queries.md")
    parser.add_argument(
        "--tables", nargs="?", const="", metavar="TABLE", help="list tables and columns, or of one"
    )
    parser.add_argument("--dictionary", help="only this one")
    parser.add_argument("--n", type=int, default=10, help="rows of a table (default 10)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV, nothing cut")
    form.add_argument("--json", action="store_true", help="print JSON: [{title, rows}, …]")
    return parser


def run_look(options: argparse.Namespace) -> str:
    """Return what was asked for; raise ValueError in one line where that cannot be."""
    from deepseemoe.query.look import ask, list_tables, look
    from deepseemoe.query.sections import as_csv, as_json, as_text

    asked = (options.what, options.sql, options.tables)
    if sum(one is not None for one in asked) != 1:
        raise ValueError("say one of: what to look for, --sql QUERY, or --tables [TABLE]")
    if options.n < 1:
        raise ValueError(f"--n {options.n} is no number of rows; 1 is the smallest")
    if options.sql is not None:
        sections = ask(options.results, options.sql)
    elif options.tables is not None:
        sections = list_tables(options.results, options.tables or None)
    else:
        chosen = {"dictionary": options.dictionary, "n_rows": options.n}
        sections = look(options.results, options.what, **chosen)
    write = as_csv if options.csv else as_json if options.json else as_text
    return write(sections)
