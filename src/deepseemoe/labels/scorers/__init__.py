"""How a description is judged: one module for each scorer, all over held-out contexts.

`detection`, `hard` and `fuzzing` show a description and passages and ask for a verdict on each
(Paulo et al. 2024, arXiv 2410.13928), `intruder` asks without a description whether a feature's
contexts have anything in common, `embedding` compares vectors, and `simulation` predicts
activations (Bills et al. 2023). All give balanced accuracy, 0.5 by chance.
"""

from deepseemoe.labels.scorers.detection import score_detection, score_hard
from deepseemoe.labels.scorers.embedding import score_embedding
from deepseemoe.labels.scorers.fuzzing import score_fuzzing
from deepseemoe.labels.scorers.intruder import score_intruder
from deepseemoe.labels.scorers.judging import Judge
from deepseemoe.labels.scorers.simulation import score_simulation

SCORERS: dict[str, Judge] = {
    "detection": score_detection,
    "hard": score_hard,
    "fuzzing": score_fuzzing,
    "intruder": score_intruder,
    "embedding": score_embedding,
    "simulation": score_simulation,
}
