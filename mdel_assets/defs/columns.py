"""The columns of the assets' tables, as the web UI shows them.

Names and types are those of the files; a test compares them with files of a finished run.
"""

from typing import Any

import dagster as dg

COLUMN_SCHEMA = "dagster/column_schema"
ROW_COUNT = "dagster/row_count"
BELOW = "columns"


def _columns(**described: tuple[str, str]) -> dg.TableSchema:
    """Return a schema of columns, each given as its type and description."""
    return dg.TableSchema(
        [
            dg.TableColumn(name, type=kind, description=description)
            for name, (kind, description) in described.items()
        ]
    )


def of(schema: dg.TableSchema) -> dict[str, Any]:
    """Return definition metadata that shows ``schema`` at the top of a data asset's page."""
    return {COLUMN_SCHEMA: schema}


def of_trainings(schema: dg.TableSchema, *, replicates: int) -> dg.TableSchema:
    """Return the columns of a report whose figures are means over ``replicates`` trainings."""
    if replicates == 1:
        return schema
    words = "Trainings that the figures are the mean of; intervals hold their variation."
    added = dg.TableColumn("num_trainings", type="int", description=words)
    return dg.TableSchema([*schema.columns, added])


def below(schema: dg.TableSchema) -> dict[str, Any]:
    """Return definition metadata that shows ``schema`` below a report's figures and charts.

    Under Dagster's own metadata key the schema would fill a screen above them.
    """
    return {BELOW: schema}


_TEXT: dict[str, tuple[str, str]] = {
    "text": ("string", "The document, whole."),
    "document_id": ("string", "A hash of the text; duplicates have the same."),
    "num_bytes": ("int", "Length of the text in UTF-8."),
}
SHARD_DOCUMENTS = _columns(
    **_TEXT, line_number=("int", "The document's line in the shard, from 1.")
)
DOMAIN_DATASET = _columns(**_TEXT, domain=("string", "The domain of the document."))

TOKEN_SCORES = _columns(
    document_id=("string", "A hash of the text; duplicates are scored once."),
    num_tokens=("int", "Tokens scored."),
    num_bytes=("int", "Length of the text in UTF-8."),
    num_words=("int", "Pieces between runs of whitespace."),
    nll_nats=("float", "Negative log-likelihood of all tokens, summed."),
    log_probabilities=("list<float>", "One per token, in nats."),
)

_FIGURES: dict[str, tuple[str, str]] = {
    "model": ("string", "The model's key: seed, expert-<domain>, merged-<recipe>, ..."),
    "dataset": ("string", "The domain whose dataset it was scored on."),
    "split": ("string", "The dataset's split."),
    "num_documents": ("int", "Documents scored."),
    "num_tokens": ("int", "Tokens scored."),
    "num_bytes": ("int", "Length of the documents in UTF-8."),
    "num_words": ("int", "Pieces between runs of whitespace."),
    "nll_nats": ("float", "Negative log-likelihood of all tokens, summed."),
    "perplexity": ("float", "exp(nll_nats / num_tokens); not comparable between tokenizers."),
    "bits_per_byte": ("float", "nll_nats / num_bytes / ln 2; lower is better."),
    "byte_perplexity": ("float", "exp(nll_nats / num_bytes)."),
    "word_perplexity": ("float", "exp(nll_nats / num_words)."),
    "bits_per_byte_low": ("float", "Lower end of its 95 % interval (document bootstrap)."),
    "bits_per_byte_high": ("float", "Upper end of its 95 % interval (document bootstrap)."),
    "max_length": ("int", "Context in tokens."),
    "model_fingerprint": ("string", "Hash of the model's settings and inputs."),
    "dataset_fingerprint": ("string", "Hash of the dataset's settings and inputs."),
}
_CHANGES: dict[str, tuple[str, str]] = {
    "change_from_seed": ("float", "Bits per byte minus the seed's; below zero is better."),
    "change_from_seed_low": ("float", "Lower end of its paired 95 % interval."),
    "change_from_seed_high": ("float", "Upper end of its paired 95 % interval."),
}
_STALE: dict[str, tuple[str, str]] = {
    "is_stale": ("bool", "Whether the model or dataset was remade since scoring."),
}
PERPLEXITY_REPORT = _columns(**_FIGURES)
PERPLEXITY_MATRIX = _columns(**_FIGURES, **_CHANGES, **_STALE)
ENSEMBLE_REPORT = _columns(
    **_FIGURES,
    **_CHANGES,
    **_STALE,
    num_experts_run=("int", "Models that run for each token."),
)
SWEEP_REPORT = _columns(
    model=("string", "The expert or the variant."),
    domain=("string", "The domain of the training text."),
    num_trained_parameters=("int", "Number of trained parameters."),
    num_tokens=("int", "Number of training tokens."),
    split=("string", "The split of the domain's dataset."),
    **_CHANGES,
)

LAYER_DIFFERENCES = _columns(
    tensor=("string", "The tensor's name."),
    layer=("int", "The tensor's layer; empty outside all layers."),
    part=("string", "The tensor's name inside the layer."),
    num_elements=("int", "Numbers in it."),
    relative_l2=("float", "L2 norm of the change over that of the seed's tensor."),
    l1=("float", "Sum of the absolute changes."),
    largest_change=("float", "The largest absolute change."),
    is_equal=("bool", "Whether the bytes equal the seed's."),
    is_frozen=("bool", "Whether the expert's training froze it."),
)
SEARCH_TRIALS = _columns(
    number=("int", "The trial's place in the search, from 0."),
    origin=("string", "The origin of the weights: a starting point, or a step."),
    weights=("list<float>", "One per model, for each group of layers in turn."),
    bits_per_byte=("float", "The merge's score on the search's documents; lower is better."),
    domains=("map<string, float>", "The same, domain by domain."),
)
