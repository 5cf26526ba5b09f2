"""The texts that a search reads: a subsample of validation documents.

Weights look better on the documents they were chosen on than they are. So the subsample avoids the
documents of the perplexity matrix as long as there are others, and the search's own report uses
test documents.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from mdel_assets.data.document_index import salted_hash
from mdel_assets.data.split_documents import SplitDocuments
from mdel_assets.errors import ScoringError
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.experiment.merge_recipe import Search
from mdel_assets.merging.surrogate import Array
from mdel_assets.scoring.evaluation_documents import (
    EvaluationDocuments,
    evaluation_documents,
)

_log = logging.getLogger(__name__)
_SPLIT = "validation_domain"


@dataclasses.dataclass(frozen=True)
class Subsample:
    """D documents of several domains: their texts, their domains, their sizes in UTF-8 bytes.

    ``num_also_evaluated`` of them are also in the perplexity matrix.
    """

    texts: list[str]
    domain_of_D: list[str]
    num_bytes_D: list[int]
    num_also_evaluated: int

    def bits_per_byte(self, nll_nats_D: Array) -> dict[str, float]:
        """Return each domain's bits per byte, for documents of these negative log-likelihoods."""
        sums: dict[str, list[float]] = {}
        for domain, nll, size in zip(self.domain_of_D, nll_nats_D, self.num_bytes_D, strict=True):
            total = sums.setdefault(domain, [0.0, 0.0])
            total[0] += float(nll)
            total[1] += size
        return {domain: nll / size / math.log(2) for domain, (nll, size) in sums.items()}


def validation_subsample(
    datasets: Mapping[str, Path], *, search: Search, evaluation: Evaluation
) -> Subsample:
    """Return the beginnings of ``search.num_documents`` validation documents of each domain.

    Domains without validation text are left out.

    Raises:
        ScoringError: no domain has any.

    """
    evaluated = evaluation_documents(datasets, evaluation)
    texts: list[str] = []
    domains: list[str] = []
    num_shared = 0
    for domain, folder in datasets.items():
        path = folder / f"{_SPLIT}.parquet"
        ids = pq.read_table(path, columns=["document_id"]).column(0).to_pylist()
        rows = _chosen_rows(ids, evaluated, search)
        found = SplitDocuments.of(path).texts(np.array(rows, np.int64))
        for row, text in zip(rows, found, strict=True):
            if text[: search.max_characters]:
                texts.append(text[: search.max_characters])
                domains.append(domain)
                num_shared += ids[row] in evaluated
    if not texts:
        raise ScoringError(
            "No domain has validation text for the search of a merge's weights. Add documents to "
            "the corpus, or give the weights in the recipe."
        )
    if num_shared:
        _log.warning(
            "%d of the search's %d validation documents are also in the perplexity matrix: judge "
            "the merge by its test splits",
            *(num_shared, len(texts)),
        )
    return Subsample(texts, domains, [len(text.encode()) for text in texts], num_shared)


def _chosen_rows(ids: list[str], evaluated: EvaluationDocuments, search: Search) -> list[int]:
    """Return the rows of the drawn documents; documents that are not evaluated come first."""
    if not ids:
        return []
    numbers = np.array([[int(key[:16], 16), int(key[16:], 16)] for key in ids], np.uint64)
    ranks = salted_hash(numbers, salt=f"search:{search.seed}")
    is_evaluated = np.array([key in evaluated for key in ids])
    return sorted(np.lexsort((ranks, is_evaluated))[: search.num_documents].tolist())
