"""Rows of Neuronpedia's tables, one JSON object each, with every field that its tools write.

Fields are those of SAEDashboard's neuronpedia_export.py (commit 3ea1249; they mirror db_models of
neuronpedia-utils) and, for explanations, export-data.py (commit 1a80fe9) and schema.prisma (commit
008d504) of hijohnnylin/neuronpedia. `createdAt` and `updatedAt` are left to the database, which
fills them: the same run gives the same bytes.
"""

import hashlib
from typing import Any, NamedTuple

Row = dict[str, Any]

CREATOR = "clkht01d40000jv08hvalcvly"
"""Owner of bulk imports where nobody else is named, in SAEDashboard as in batch-autointerp.py."""
CREATOR_NAME = "DeepSeeMoE"

EMPTY_LISTS = (
    "vector", "topkCosSimIndices", "topkCosSimValues", "neuron_alignment_indices",
    "neuron_alignment_values", "neuron_alignment_l1", "correlated_neurons_indices",
    "correlated_neurons_pearson", "correlated_neurons_l1", "correlated_features_indices",
    "correlated_features_pearson", "correlated_features_l1", "neg_str", "neg_values", "pos_str",
    "pos_values", "freq_hist_data_bar_heights", "freq_hist_data_bar_values",
    "logits_hist_data_bar_heights", "logits_hist_data_bar_values", "decoder_weights_dist",
)  # fmt: skip
"""Lists of a feature that a run does not measure, or that need the model."""


class Source(NamedTuple):
    """The names under which Neuronpedia keeps one dictionary and window."""

    model_id: str
    source_id: str
    set_name: str
    release: str

    def key(self, *of: object) -> str:
        """Return an id of 25 characters that depends on nothing but what it is of."""
        text = "\0".join(map(str, (self.model_id, self.source_id, *of)))
        return "c" + hashlib.sha256(text.encode()).hexdigest()[:24]


def release_row(source: Source, description: str) -> Row:
    """Return the row of table SourceRelease."""
    return {
        "name": source.release, "description": description, "creatorName": CREATOR_NAME,
        "creatorId": CREATOR, "visibility": "PUBLIC", "isNewUi": False, "featured": False,
        "descriptionShort": source.release, "urls": [], "creatorEmail": None,
        "creatorNameShort": CREATOR_NAME, "defaultSourceSetName": source.set_name,
        "defaultSourceId": source.source_id, "defaultUmapSourceIds": [],
    }  # fmt: skip


def model_row(source: Source, *, name: str, d_model: int, n_layers: int) -> Row:
    """Return the row of table Model; 0 layers where nobody told."""
    return {
        "id": source.model_id, "instruct": False, "creatorId": CREATOR, "displayNameShort": name,
        "displayName": name, "tlensId": None, "dimension": d_model, "visibility": "PUBLIC",
        "defaultSourceSetName": None, "defaultSourceId": None, "inferenceEnabled": False,
        "layers": n_layers, "neuronsPerLayer": 0, "owner": name.split("/")[0], "website": None,
    }  # fmt: skip


def sourceset_row(source: Source, description: str) -> Row:
    """Return the row of table SourceSet."""
    return {
        "modelId": source.model_id, "name": source.set_name, "creatorId": CREATOR,
        "hasDashboards": True, "visibility": "PUBLIC", "description": description, "type": "",
        "creatorName": CREATOR_NAME, "urls": [], "creatorEmail": None,
        "releaseName": source.release, "defaultOfModelId": None, "defaultRange": 1,
        "defaultShowBreaks": True, "showDfa": False, "showCorrelated": False,
        "showHeadAttribution": False, "showUmap": False,
    }  # fmt: skip


def source_row(source: Source, *, dataset: str, n_prompts: int, n_tokens: int, notes: str) -> Row:
    """Return the row of table Source; `n_tokens` are those of one prompt."""
    return {
        "id": source.source_id, "modelId": source.model_id, "setName": source.set_name,
        "creatorId": CREATOR, "hasDashboards": True, "inferenceEnabled": False,
        "inferenceHosts": [], "saelensConfig": None, "saelensRelease": None, "saelensSaeId": None,
        "hfRepoId": None, "hfFolderId": None, "visibility": "PUBLIC", "defaultOfModelId": None,
        "hasUmap": False, "hasUmapLogSparsity": False, "hasUmapClusters": False,
        "num_prompts": n_prompts, "num_tokens_in_prompt": n_tokens, "dataset": dataset,
        "notes": notes,
    }  # fmt: skip


def feature_row(source: Source, feature: int, *, density: float, highest: float) -> Row:
    """Return the row of table Neuron."""
    return {
        "modelId": source.model_id, "layer": source.source_id, "index": str(feature),
        "creatorId": CREATOR, "maxActApprox": highest, "hasVector": False, "vectorLabel": None,
        "vectorDefaultSteerStrength": highest, "hookName": None, "frac_nonzero": density,
        "sourceSetName": source.set_name, **{name: [] for name in EMPTY_LISTS},
    }  # fmt: skip


class Bin(NamedTuple):
    """The interval of activations that a context was drawn from."""

    low: float
    high: float
    share: float
    """Of the contexts that hold the feature; -1 for the highest ones, as SAEDashboard writes it."""


def activation_row(
    source: Source,
    feature: int,
    *,
    key: str,
    doc_id: int,
    tokens: list[str],
    values: list[float],
    interval: Bin,
) -> Row:
    """Return the row of table Activation: one context, a value for every token."""
    highest = max(values)
    peak = values.index(highest)
    return {
        "id": key, "tokens": tokens, "index": str(feature), "layer": source.source_id,
        "modelId": source.model_id, "maxValue": highest, "maxValueTokenIndex": peak,
        "minValue": min(values), "values": values, "creatorId": CREATOR,
        "dataSource": source.release, "dataIndex": str(doc_id), "dfaValues": [],
        "dfaTargetIndex": None, "dfaMaxValue": None, "lossValues": [],
        "logitContributions": None, "binMin": interval.low, "binMax": interval.high,
        "binContains": interval.share, "qualifyingTokenIndex": peak, "zIndices": None,
        "zValues": None,
    }  # fmt: skip


def explanation_row(
    source: Source, feature: int, *, text: str, type_name: str, author: str, notes: str
) -> Row:
    """Return the row of table Explanation; `author` is whoever described the feature."""
    return {
        "id": source.key("explanation", feature), "modelId": source.model_id,
        "layer": source.source_id, "index": str(feature), "description": text,
        "authorId": CREATOR, "embedding": None, "triggeredByUserId": None,
        "typeName": type_name, "explanationModelName": author, "notes": notes,
    }  # fmt: skip


def score_row(
    source: Source, feature: int, *, type_name: str, author: str, value: float, details: str
) -> Row:
    """Return the row of table ExplanationScore, of the explanation of the same feature."""
    return {
        "id": source.key("score", feature, type_name), "initiatedByUserId": CREATOR,
        "value": value, "explanationId": source.key("explanation", feature),
        "explanationScoreTypeName": type_name, "explanationScoreModelName": author,
        "jsonDetails": details,
    }  # fmt: skip


def type_row(name: str, description: str) -> Row:
    """Return a row of ExplanationType or ExplanationScoreType, which explanations refer to."""
    return {
        "name": name, "displayName": name, "description": description, "featured": False,
        "isAttention": False, "settings": None, "url": None, "creatorName": CREATOR_NAME,
        "creatorId": CREATOR,
    }  # fmt: skip


def author_row(name: str) -> Row:
    """Return a row of ExplanationModelType or ExplanationScoreModel."""
    return {
        "name": name, "displayName": name, "description": "named by a run of DeepSeeMoE",
        "featured": False, "url": None, "creatorName": CREATOR_NAME,
    }  # fmt: skip
