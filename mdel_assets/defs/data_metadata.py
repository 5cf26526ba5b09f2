"""Metadata of shards and datasets in the web UI: counts, charts, samples."""

from pathlib import Path
from typing import Any

import dagster as dg

from mdel_assets.data.dataset_counts import DatasetCounts
from mdel_assets.data.shard_counts import ShardCounts
from mdel_assets.defs.metadata import chart, preview, table
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Record

_NUM_SAMPLE_ROWS = 5
_NUM_TOKENIZED_CHARACTERS = 1 << 16
_ROWS_PER_BATCH = 1 << 16
# Short names: with longer ones the table is cut off on a window of 1280 pixels.
_SPLIT_COLUMNS = {
    "documents": "num_documents",
    "domain": "num_domain_documents",
    "general": "num_general_documents",
    "bytes": "num_bytes",
    "domain_bytes": "num_domain_bytes",
}


def shard_metadata(record: Record) -> dict[str, Any]:
    """Return the metadata of a routed shard: counts, rejects, a chart of all domains."""
    from mdel_assets.charts import bar_chart

    counts = ShardCounts.of(record.counts)
    domains = sorted(counts.domains.items(), key=lambda item: -item[1].num_bytes)
    sizes = {key: found.num_bytes / 1e6 for key, found in domains}
    return {
        "text_by_domain": chart(
            bar_chart(sizes, x_label="MB of text", title="Text by domain"), "text"
        ),
        "domains": table(
            [
                {
                    "domain": key,
                    "num_documents": found.num_documents,
                    "num_bytes": found.num_bytes,
                    "share_of_bytes": round(found.num_bytes / max(1, counts.num_bytes), 4),
                }
                for key, found in domains
            ]
        ),
        "dagster/row_count": counts.num_documents,
        "num_lines": counts.num_lines,
        "num_rejects": counts.num_rejects,
        "num_repaired": counts.num_repaired,
        "num_without_text": counts.num_without_text,
        "num_filtered": counts.num_filtered,
        "num_unclaimed": counts.num_unclaimed,
        "rejects_by_reason": dg.MetadataValue.json(counts.rejects),
        "filtered_licenses": dg.MetadataValue.json(counts.filtered_licenses),
        "unknown_labels": dg.MetadataValue.json(counts.unknown_labels),
        "similar_labels": dg.MetadataValue.json(counts.similar_labels),
        "unread_files": dg.MetadataValue.json(record.counts.get("unread_files", {})),
    }


def dataset_metadata(record: Record, artifact: Artifact, *, tokenizer: Any) -> dict[str, Any]:
    """Return the metadata of a domain's dataset.

    ``tokenizer`` is the seed model's; if it is None, tokens per byte are left out.
    """
    counts = DatasetCounts.of(record.counts)
    rows = [
        {"split": split, **{name: getattr(count, of) for name, of in _SPLIT_COLUMNS.items()}}
        for split, count in counts.splits.items()
    ]
    num_bytes = sum(split.num_domain_bytes for split in counts.own)
    train = artifact.folder / "train.parquet"
    return {
        "splits": table(rows),
        "document_lengths": _length_chart(train, record.key),
        "sample": table(_sample_rows(train)),
        "dagster/row_count": sum(count.num_documents for count in counts.splits.values()),
        "num_domain_documents": sum(split.num_domain_documents for split in counts.own),
        "num_domain_bytes": num_bytes,
        "share_of_corpus": round(num_bytes / max(1, counts.corpus_bytes), 4),
        **tokens_per_byte(train, record.key, tokenizer),
        "removed_from_corpus": dg.MetadataValue.json(record.details["removed_from_corpus"]),
    }


def tokens_per_byte(path: Path, domain: str, tokenizer: Any) -> dict[str, Any]:
    """Measure tokens per byte on a random sample of the domain's own training text.

    Returns an empty dict without a tokenizer.
    """
    from mdel_assets.data.split_documents import SplitDocuments
    from mdel_assets.training.packing import shuffled

    if tokenizer is None:
        return {}
    documents = SplitDocuments.of(path, domain=domain)
    texts: list[str] = []
    left = _NUM_TOKENIZED_CHARACTERS
    for text in documents.texts(shuffled(documents, seed=0), num_characters=left):
        texts.append(text[:left])
        left -= len(texts[-1])
        if not left:
            break
    num_tokens = sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
    num_bytes = sum(len(text.encode()) for text in texts)
    return {"tokens_per_byte": round(num_tokens / max(1, num_bytes), 4)}


def _length_chart(path: Path, domain: str) -> dg.MetadataValue:
    """Return a chart of the lengths of the domain's training documents, in powers of two."""
    import numpy as np
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from mdel_assets.charts import histogram

    sizes = []
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_PER_BATCH, columns=["num_bytes", "domain"]):
            own = batch.filter(pc.equal(batch.column("domain"), domain))
            sizes.append(own.column("num_bytes").to_numpy().astype(np.uint32))
    drawn = histogram(
        np.concatenate(sizes),
        x_label="bytes of text",
        y_label="documents",
        title="Document lengths",
    )
    return chart(drawn, "document lengths")


def _sample_rows(path: Path) -> list[dict[str, str]]:
    import pyarrow.parquet as pq

    first = next(pq.ParquetFile(path).iter_batches(_NUM_SAMPLE_ROWS), None)
    rows = first.to_pylist() if first else []
    return [{"domain": row["domain"], "text": preview(row["text"])} for row in rows]
