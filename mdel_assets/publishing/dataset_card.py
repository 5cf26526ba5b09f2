"""The card of a domain's dataset."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from mdel_assets.data.dataset_counts import DatasetCounts, SplitCount
from mdel_assets.experiment.fields import Mixture
from mdel_assets.line.lineage import Lineage
from mdel_assets.publishing.cards import (
    front_matter,
    languages_of,
    licence_of,
    licence_section,
    load_dataset_snippet,
    provenance_section,
    shard_rows,
)

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))


def documents_by_domain(folder: Path) -> dict[str, int]:
    """Return how many documents of each domain a dataset holds, over all its splits."""
    found: dict[str, int] = {}
    for path in sorted(folder.glob("*.parquet")):
        counted = pc.value_counts(pq.read_table(path, columns=["domain"]).column("domain"))
        for entry in counted.to_pylist():
            found[entry["values"]] = found.get(entry["values"], 0) + entry["counts"]
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def dataset_card(lineage: Lineage, domain: str, *, name: str) -> str:
    """Return the card of the dataset of ``domain``; ``name`` is the name to load it by."""
    experiment = lineage.experiment
    artifact = lineage.artifact("domain_dataset", domain)
    record = artifact.require()
    held = documents_by_domain(artifact.folder)
    domains = [domain, *(key for key in held if key != domain)]
    label = experiment.require_domain(domain).name
    counts = DatasetCounts.of(record.counts).splits
    filled = [split for split, count in counts.items() if count.num_documents]
    metadata = {
        "pretty_name": label,
        "language": languages_of(experiment, domains),
        **licence_of(experiment, domains),
        "task_categories": ["text-generation"],
        "tags": ["mdel", domain],
        "size_categories": [_size_category(sum(held.values()))],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}.parquet"} for split in filled],
            }
        ],
    }
    return f"""{front_matter(metadata)}
# {label}

Text of the domain `{domain}` of the experiment `{experiment.name}`, to train and measure an expert
language model on, made by MDEL assets. {_mixture_in_words(experiment.mixture)}
`*_domain` splits hold only this domain, `*_pile` splits all others.

## How to load it

{load_dataset_snippet(name)}
## What it holds

{_split_table(counts)}
## Licence and sources

{licence_section(experiment, domains)}
Documents by domain, over all splits: {", ".join(f"`{k}` {n:,}" for k, n in held.items())}.

## Provenance

{provenance_section(record, artifact, also=shard_rows(lineage))}"""


def _mixture_in_words(mixture: Mixture) -> str:
    """Return sentences on the dataset's other text and on its splits."""
    if mixture.compatible_with_mdel:
        return (
            "It was mixed as in the original MDEL project: general text is the corpus's first "
            "documents of any domain, duplicates were kept, and splits may share documents."
        )
    told = "It holds no other text."
    if mixture.general_ratio:
        told = (
            f"It also holds {mixture.general_ratio:g} times as many {mixture.match} of the "
            f"corpus's other domains, drawn by a seeded hash, so that a model that learns this "
            f"domain forgets less of the rest. The column `domain` distinguishes the two."
        )
    return f"{told} No document is in two splits, and duplicates were removed."


def _split_table(counts: Mapping[str, SplitCount]) -> str:
    lines = ["| split | documents | of the domain | general | bytes |", "|---|---|---|---|---|"]
    lines += [
        f"| `{split}` | {c.num_documents:,} | {c.num_domain_documents:,} "
        f"| {c.num_general_documents:,} | {c.num_bytes:,} |"
        for split, c in counts.items()
    ]
    return "\n".join(lines) + "\n"


def _size_category(count: int) -> str:
    for limit, name in _SIZES:
        if count < limit:
            return name
    return "1M<n<10M" if count < 10**7 else "n>10M"
