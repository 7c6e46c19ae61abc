"""The map of reads of a tiny trained model whose routers were wired to known concepts.

    python benchmarks/planted_moe.py [--seeds 1] [--json FILE]

A NanoMoE learns the planted language; half-way the rows of one router are set to linear probes of
twelve concepts and frozen, and the rest is trained around them (src/deepseemoe/trust/wired.py). A
dictionary is learnt on its activations, and the map is made by the functions that map a run.
Planted are the pairs of an expert and the features that detect its concept. What is printed: AUROC
and average precision over tested pairs, the mean of average precision over experts, the shares of
experts and of features whose first pair is planted, for the map's order and single columns. Targets
are .5 for average precision and .8 for first places. About 40 s of one core for each seed.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from deepseemoe.trust.scores import Found  # noqa: E402
from deepseemoe.trust.wired_run import run_wired  # noqa: E402


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="models")
    parser.add_argument("--json", type=Path, help="file for the scores of every model")
    arguments = parser.parse_args()
    models = []
    for seed in range(arguments.seeds):
        with TemporaryDirectory() as folder:
            models.append(run_wired(Path(folder), seed=seed))
    told = ", ".join(f"{model.n_planted} of {model.n_tested}" for model in models)
    print(f"planted pairs of those tested: {told}")
    print(" " * 14 + "".join(f"{name:>14s}" for name in Found._fields))
    for order in models[0].orders:
        means = np.mean([model.orders[order] for model in models], axis=0)
        print(f"{order:14s}" + "".join(f"{mean:14.3f}" for mean in means))
    if arguments.json:
        scores = [
            {order: found._asdict() for order, found in model.orders.items()} for model in models
        ]
        arguments.json.write_text(json.dumps(scores, indent=1) + "\n")


if __name__ == "__main__":
    main()
