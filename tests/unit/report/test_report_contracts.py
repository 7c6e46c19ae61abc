"""The columns that the report reads are columns that the stages write."""

import pytest

from deepseemoe.corpus.documents import DOCUMENT_COLUMNS as DOCUMENTS
from deepseemoe.dictionary.curves import COLUMNS as DICTIONARY_TRAINING
from deepseemoe.experts.schemas import READS, WRITES
from deepseemoe.features.schemas import DENSITY, EXAMPLES
from deepseemoe.labels.schemas import EXPERTS, FEATURES, SCORES
from deepseemoe.model.training import COLUMNS as MODEL_TRAINING
from deepseemoe.prediction.schemas import SCORES as PREDICTION
from deepseemoe.report import (
    coactivation,
    concentration,
    corpus,
    domains,
    experts,
    labels,
    load,
    maps,
    prediction,
    training,
    views,
    writes,
)
from deepseemoe.routing.schemas import COACTIVATION, DOMAINS, LOAD, VOCABULARY


@pytest.mark.parametrize(
    ("read", "written"),
    [
        (corpus.DOCUMENT_COLUMNS, DOCUMENTS),
        (training.MODEL_COLUMNS, MODEL_TRAINING),
        (training.DICTIONARY_COLUMNS, DICTIONARY_TRAINING),
        (("feature", "density", "max_activation"), DENSITY),
        (views.EXAMPLE_COLUMNS, EXAMPLES),
        (load.LOAD_COLUMNS, LOAD),
        (domains.DOMAIN_COLUMNS, DOMAINS),
        (coactivation.COACTIVATION_COLUMNS, COACTIVATION),
        (experts.VOCABULARY_COLUMNS, VOCABULARY),
        (maps.KEPT_COLUMNS, READS),
        (concentration.PAIR_COLUMNS, READS),
        (writes.COLUMNS, WRITES),
        (prediction.SCORE_COLUMNS, PREDICTION),
        (("feature", "label"), FEATURES),
        (labels.SCORE_COLUMNS, SCORES),
        (("layer", "expert", "label", "is_shared"), EXPERTS),
    ],
)
def test_the_report_reads_what_stages_write(read, written):
    assert set(read) <= {column.name for column in written}
