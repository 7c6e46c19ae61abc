"""The configuration: one frozen model a stage, validated before Snakemake plans a job.

Imports pydantic and the standard library only: every job of a cluster reads the Snakefile again.
"""

from deepseemoe.config.activations import ActivationsConfig
from deepseemoe.config.analysis import (
    ExpertsConfig,
    FeaturesConfig,
    PredictionConfig,
    ReportConfig,
    RoutingConfig,
)
from deepseemoe.config.base import ConfigError, Section
from deepseemoe.config.batches import BatchesConfig
from deepseemoe.config.corpus import CorpusConfig, FilterConfig
from deepseemoe.config.devices import DevicesConfig
from deepseemoe.config.dictionary import DictionaryConfig, ImportedConfig
from deepseemoe.config.justify import JustifyConfig
from deepseemoe.config.labels import LabelsConfig
from deepseemoe.config.model import ArchitectureConfig, ModelConfig, TrainingConfig
from deepseemoe.config.run import RunConfig, load_run
from deepseemoe.config.trust import TrustConfig

__all__ = [
    "ActivationsConfig",
    "ArchitectureConfig",
    "BatchesConfig",
    "ConfigError",
    "CorpusConfig",
    "DevicesConfig",
    "DictionaryConfig",
    "ExpertsConfig",
    "FeaturesConfig",
    "FilterConfig",
    "ImportedConfig",
    "JustifyConfig",
    "LabelsConfig",
    "ModelConfig",
    "PredictionConfig",
    "ReportConfig",
    "RoutingConfig",
    "RunConfig",
    "Section",
    "TrainingConfig",
    "TrustConfig",
    "load_run",
]
