"""The console script `deepseemoe`, for what is no stage: check, plan, export, import and so on."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from deepseemoe.config import load_run
from deepseemoe.config.files import merged
from deepseemoe.config.schema import README_FILE, SCHEMA_FILE, readme_text, schema_text
from deepseemoe.interop.command import add_export, add_import, run_export, run_import
from deepseemoe.plan.command import add_plan, run_plan
from deepseemoe.query.command import add_look, run_look
from deepseemoe.runtime.terminal import printable
from deepseemoe.verify import add_verify, run_verify

DEFAULT_CONFIG = Path("config/config.yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status; what is wrong is said in one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a letter shows its number
            stream.reconfigure(errors="backslashreplace")
    options = _parsed(arguments)
    try:
        return options.run(options)
    except BrokenPipeError:  # `| head` has seen enough; Python must not flush into it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(printable(f"deepseemoe {options.command}: {error}"), file=sys.stderr)
        return 1


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments; argparse alone loses the second one of `look` behind an option."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command == "look" and options.what is None and len(rest) == 1 and rest[0][:1] != "-":
        options.what = rest.pop()
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def merged_config(files: Sequence[Path], default: Path = DEFAULT_CONFIG) -> dict[str, Any]:
    """Return the configuration as Snakemake merges it: the default file first, then `files`."""
    return merged([default] * default.is_file() + list(files))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deepseemoe", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="validate a configuration and print it resolved")
    check.add_argument(
        "configfile",
        nargs="*",
        type=Path,
        help="as snakemake --configfile; config/config.yaml first",
    )
    check.add_argument("--quiet", action="store_true", help="print problems only")
    check.set_defaults(run=_check)
    add_plan(commands).set_defaults(run=_plan)
    schema = commands.add_parser(
        "schema", help="renew the JSON schema, the keys of config/README.md and docs/tables.md"
    )
    schema.set_defaults(run=_schema)
    add_look(commands).set_defaults(run=_look)
    add_verify(commands).set_defaults(run=_verify)
    add_export(commands).set_defaults(run=_export)
    add_import(commands).set_defaults(run=_import)
    return parser


def _check(options: argparse.Namespace) -> int:
    from deepseemoe.preflight import problems, remarks

    run = load_run(merged_config(options.configfile))
    found = problems(run)
    if not options.quiet:
        print(yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    for line in (*(f"warning: {remark}" for remark in remarks(run)), *found):
        print(printable(f"deepseemoe check: {line}"), file=sys.stderr)
    return 1 if found else 0


def _plan(options: argparse.Namespace) -> int:
    text, status = run_plan(load_run(merged_config(options.configfile)), options)
    print(text)
    return status


def _schema(options: argparse.Namespace) -> int:
    from deepseemoe.query.page import TABLES_FILE, tables_text

    Path(SCHEMA_FILE).write_text(schema_text(), encoding="utf-8")
    Path(TABLES_FILE).write_text(tables_text(), encoding="utf-8")
    readme = Path(README_FILE)
    readme.write_text(readme_text(readme.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {SCHEMA_FILE}, {README_FILE} and {TABLES_FILE}")
    return 0


def _look(options: argparse.Namespace) -> int:
    print(run_look(options))
    return 0


def _verify(options: argparse.Namespace) -> int:
    text, status = run_verify(options)
    print(text)
    return status


def _export(options: argparse.Namespace) -> int:
    print(run_export(options))
    return 0


def _import(options: argparse.Namespace) -> int:
    print(run_import(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
