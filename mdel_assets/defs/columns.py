"""The columns of the tables that assets are, as the web UI shows them.

Names and types are those of the files; a test compares them with what the line wrote.
"""

from typing import Any

import dagster as dg

COLUMN_SCHEMA = "dagster/column_schema"
ROW_COUNT = "dagster/row_count"
BELOW = "columns"


def _columns(**described: tuple[str, str]) -> dg.TableSchema:
    """Return a schema of columns, each given as its type and what it holds."""
    return dg.TableSchema(
        [
            dg.TableColumn(name, type=kind, description=description)
            for name, (kind, description) in described.items()
        ]
    )


def of(schema: dg.TableSchema) -> dict[str, Any]:
    """Return the definition metadata that shows ``schema`` first on an asset's page: for data."""
    return {COLUMN_SCHEMA: schema}


def below(schema: dg.TableSchema) -> dict[str, Any]:
    """Return the definition metadata that shows ``schema`` below figures and charts: for reports.

    Under Dagster's own name it would stand above them, a screen high.
    """
    return {BELOW: schema}


_TEXT: dict[str, tuple[str, str]] = {
    "text": ("string", "The document, whole."),
    "document_id": ("string", "A hash of the text: copies have the same."),
    "num_bytes": ("int", "Length of the text in UTF-8."),
}
SHARD_DOCUMENTS = _columns(
    **_TEXT, line_number=("int", "The line of the shard that it stood in, from 1.")
)
DOMAIN_DATASET = _columns(**_TEXT, domain=("string", "The domain that the document is of."))

TOKEN_SCORES = _columns(
    document_id=("string", "A hash of the text: copies are scored once."),
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
    "model_fingerprint": ("string", "What the model was made of, hashed."),
    "dataset_fingerprint": ("string", "What the dataset was made of, hashed."),
}
_CHANGES: dict[str, tuple[str, str]] = {
    "change_from_seed": ("float", "Bits per byte, less the seed's; below zero is better."),
    "change_from_seed_low": ("float", "Lower end of its paired 95 % interval."),
    "change_from_seed_high": ("float", "Upper end of its paired 95 % interval."),
}
_STALE: dict[str, tuple[str, str]] = {
    "is_stale": ("bool", "Whether model or dataset was made anew since it was scored."),
}
PERPLEXITY_REPORT = _columns(**_FIGURES)
PERPLEXITY_MATRIX = _columns(**_FIGURES, **_CHANGES, **_STALE)
ENSEMBLE_REPORT = _columns(
    **_FIGURES,
    **_CHANGES,
    **_STALE,
    num_experts_run=("int", "Models that must run for each token."),
)
SWEEP_REPORT = _columns(
    model=("string", "The expert, or the variant of it."),
    domain=("string", "The domain that it was trained on."),
    num_trained_parameters=("int", "Parameters that were trained."),
    num_tokens=("int", "Tokens that it was trained on."),
    split=("string", "The split of its own domain's dataset."),
    **_CHANGES,
)

LAYER_DIFFERENCES = _columns(
    tensor=("string", "The tensor's name."),
    layer=("int", "The layer that it lies in; none outside of all."),
    part=("string", "Its name inside the layer."),
    num_elements=("int", "Numbers in it."),
    relative_l2=("float", "L2 norm of the change, as a share of the seed's."),
    l1=("float", "Sum of the absolute changes."),
    largest_change=("float", "The largest absolute change."),
    is_equal=("bool", "Whether its bytes are the seed's."),
    is_frozen=("bool", "Whether the expert's training froze it."),
)
SEARCH_TRIALS = _columns(
    number=("int", "The trial's place in the search, from 0."),
    origin=("string", "Where its weights come from: a starting point, or a step."),
    weights=("list<float>", "One per model, for one group of layers after the other."),
    bits_per_byte=("float", "What the merge scores on the search's documents; lower is better."),
    domains=("map<string, float>", "The same, domain by domain."),
)
