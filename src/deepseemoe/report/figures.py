"""Drawing all figures of a run: tables are read, pure functions draw, files are written."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from deepseemoe.config import ReportConfig
from deepseemoe.report.coactivation import COACTIVATION_COLUMNS, draw_coactivation
from deepseemoe.report.concentration import draw_concentration, read_concentrations
from deepseemoe.report.density import draw_density, read_densities
from deepseemoe.report.domains import DOMAIN_COLUMNS, draw_domains
from deepseemoe.report.evidence import draw_evidence, read_evidence
from deepseemoe.report.heatmap import draw_heat_map
from deepseemoe.report.labels import draw_scores, read_scores
from deepseemoe.report.load import LOAD_COLUMNS, draw_load
from deepseemoe.report.maps import read_map
from deepseemoe.report.names import Trained, figure_names
from deepseemoe.report.prediction import draw_predictions, read_predictions
from deepseemoe.report.reconstruction import draw_reconstruction, read_metrics
from deepseemoe.report.style import save_figure
from deepseemoe.report.tables import RunTables, Table
from deepseemoe.report.training import (
    MODEL_COLUMNS,
    draw_dictionaries,
    draw_model,
    read_dictionaries,
)

if TYPE_CHECKING:
    from deepseemoe.config import RunConfig

logger = logging.getLogger(__name__)


def draw_figures(
    config: ReportConfig, *, run: "RunConfig", tables: RunTables, folder: Path
) -> None:
    """Draw every figure that `figure_names(run)` lists to `folder`, in each format of `config`.

    One figure is in memory at a time. Raises ValueError where a table lacks a column.
    """
    drawers = dict(_drawers(config, tables))
    for stem in figure_names(run):
        figure = drawers[stem]()
        for kind in config.formats:
            save_figure(figure, folder / f"{stem}.{kind}")
    logger.info("drew %d figures to %s", len(figure_names(run)), folder)


def _drawers(config: ReportConfig, tables: RunTables) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Yield each stem with a function that reads its tables and draws it."""
    for one in tables.trained:
        yield f"map_heatmap_{one.stem}", partial(_heat_map, tables, one, config.heatmap_features)
    yield "map_concentration", lambda: draw_concentration(read_concentrations(tables))
    yield "map_evidence", lambda: draw_evidence(read_evidence(tables))
    yield "prediction", lambda: draw_predictions(read_predictions(tables))
    yield "expert_load", _from(tables, "routing/load.parquet", LOAD_COLUMNS, draw_load)
    yield "domain_load", _from(tables, "routing/domains.parquet", DOMAIN_COLUMNS, draw_domains)
    yield (
        "coactivation",
        _from(tables, "routing/coactivation.parquet", COACTIVATION_COLUMNS, draw_coactivation),
    )
    yield "reconstruction", lambda: draw_reconstruction(read_metrics(tables))
    yield "density", lambda: draw_density(read_densities(tables))
    yield "label_scores", lambda: draw_scores(read_scores(tables))
    yield "training_dictionaries", lambda: draw_dictionaries(read_dictionaries(tables))
    yield "training_model", _from(tables, "model/training.parquet", MODEL_COLUMNS, draw_model)


def _from(
    tables: RunTables, path: str, columns: tuple[str, ...], draw: Callable[[Table], Figure]
) -> Callable[[], Figure]:
    return lambda: draw(tables.read(path, *columns))


def _heat_map(tables: RunTables, one: Trained, n_features: int) -> Figure:
    return draw_heat_map(one, read_map(tables, one), n_features=n_features)
