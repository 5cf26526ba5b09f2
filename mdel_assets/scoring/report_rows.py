"""Rows of a perplexity report, as ``reports/perplexity/<model>.jsonl`` and its record hold them."""

from typing import TypedDict, cast

from mdel_assets.store.records import Record


class Measures(TypedDict):
    """What a model's probabilities of a text say of it; None without text."""

    nll_nats: float
    perplexity: float | None
    bits_per_byte: float | None
    byte_perplexity: float | None
    word_perplexity: float | None


class ReportRow(Measures):
    """A model on one split of a dataset; figures are None without text."""

    model: str
    dataset: str
    split: str
    num_documents: int
    num_tokens: int
    num_bytes: int
    num_words: int
    bits_per_byte_low: float | None
    bits_per_byte_high: float | None
    max_length: int
    model_fingerprint: str
    dataset_fingerprint: str


def rows_of(record: Record | None) -> list[ReportRow]:
    """Return the rows of a report's record; none without one."""
    return cast("list[ReportRow]", record.details["rows"]) if record else []
