"""The subcommand `plan`: its arguments, and its text and exit status."""

import argparse
import json
from pathlib import Path

from deepseemoe.config import RunConfig

HELP = "what a run will take: memory, disk, hours, label tokens; nothing runs or is downloaded"
DESCRIPTION = """Tell what a run will take, from its configuration and its model's config.json.

Exit status 1 where something does not fit. Numbers before which ~ stands are estimates. Speeds are
those of the run's own logs and benchmarks where it has any, else assumed: an H100 at 25 % of its
989 TFLOP/s in bfloat16 for models, at 70 % of 67 TFLOP/s in float32 for dictionaries."""
EXAMPLES = """examples:
  deepseemoe plan config/runs/gpt-oss-20b.yaml
  deepseemoe plan config/runs/gpt-oss-20b.yaml config/corpora/dclm-10.yaml --disk-gib 2000
  deepseemoe plan my.yaml --usd-per-million-in 0.10 --usd-per-million-out 0.40 --json plan.json"""


Commands = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_plan(commands: Commands) -> argparse.ArgumentParser:
    """Add the subcommand with its arguments, and return its parser."""
    plan = commands.add_parser(
        "plan",
        help=HELP,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plan.add_argument(
        "configfile", nargs="*", type=Path, help="as snakemake --configfile, merged in order"
    )
    plan.add_argument(
        "--model-config", type=Path, metavar="FILE", help="config.json of the model, where offline"
    )
    plan.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    _add_machine(plan.add_argument_group("the machine"))
    _add_labels(plan.add_argument_group("labels by a language model"))
    return plan


def _add_machine(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--gpu-gib", type=float, metavar="N", help="memory of each GPU (default: devices.gpu_gib)"
    )
    group.add_argument(
        "--ram-gib", type=float, metavar="N", help="memory of the host (default: of this machine)"
    )
    group.add_argument(
        "--disk-gib", type=float, metavar="N", help="free disk (default: where results go)"
    )
    group.add_argument(
        "--tokens-per-second",
        type=float,
        metavar="N",
        help="speed of the model's first layers, where you know it",
    )


def _add_labels(group: argparse._ArgumentGroup) -> None:
    for kind in ("in", "out"):
        group.add_argument(
            f"--usd-per-million-{kind}", type=float, metavar="USD", help=f"price of tokens {kind}"
        )
    group.add_argument(
        "--answer-tokens",
        type=int,
        default=0,
        metavar="N",
        help="tokens of thought before each answer, for models that reason (default 0)",
    )


def run_plan(run: RunConfig, options: argparse.Namespace) -> tuple[str, int]:
    """Return the text of a plan and the exit status; write the JSON where it is asked for."""
    from deepseemoe.plan.labels import Prices
    from deepseemoe.plan.limits import limits_of
    from deepseemoe.plan.network import read_network
    from deepseemoe.plan.plan import make_plan
    from deepseemoe.plan.source import checkpoint_of
    from deepseemoe.plan.text import plan_text

    network = read_network(checkpoint_of(run, options.model_config))
    gpu_gib = options.gpu_gib or run.devices.gpu_gib
    limits = limits_of(run, gpu_gib=gpu_gib, ram_gib=options.ram_gib, disk_gib=options.disk_gib)
    plan = make_plan(
        run,
        network,
        limits,
        tokens_per_second=options.tokens_per_second,
        prices=Prices(options.usd_per_million_in, options.usd_per_million_out),
        answer_tokens=options.answer_tokens,
    )
    if options.json:
        options.json.write_text(json.dumps(plan.plain(), indent=2) + "\n", encoding="utf-8")
    text = plan_text(plan, lambda changed: make_plan(changed, network, limits).problems)
    return text, 1 if plan.problems else 0
