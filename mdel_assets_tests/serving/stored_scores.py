"""What the line's `token_scores` say of a text: an oracle for served log-probabilities."""

import dataclasses

import pyarrow.parquet as pq

from mdel_assets.training.model_files import load_tokenizer, reading


@dataclasses.dataclass(frozen=True)
class ScoredText:
    """The first tokens of a document, and their log-probabilities."""

    ids: list[int]
    text: str
    log_p: list[float]


def first_scored_document(lineage, model, *, max_tokens):
    """Return the beginning of a document of `github` that ``model`` was scored on."""
    store = lineage
    cells = pq.read_table(store.folder("token_scores", model) / "cells.parquet").to_pylist()
    cell = next(c for c in cells if (c["dataset"], c["split"]) == ("github", "validation_domain"))
    documents = pq.read_table(store.folder("token_scores", model) / "documents.parquet").to_pylist()
    scored = next(d for d in documents if d["document_id"] == cell["document_id"])
    rows = pq.read_table(
        store.folder("domain_dataset", "github") / "validation_domain.parquet"
    ).to_pylist()
    text = next(r["text"] for r in rows if r["document_id"] == cell["document_id"])
    tokenizer = reading(
        load_tokenizer(store.model(model).folder), lineage.experiment.evaluation.special_tokens
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:max_tokens]
    return ScoredText(ids, tokenizer.decode(ids), scored["log_probabilities"][: len(ids)])
