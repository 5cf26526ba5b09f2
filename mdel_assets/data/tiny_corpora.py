"""Corpora that are too small: refused if nothing could be measured, else a warning in the log."""

import logging
from collections.abc import Mapping

import numpy as np

from mdel_assets.data.dataset_counts import SplitCount
from mdel_assets.data.document_index import ROLES, DocumentIndex
from mdel_assets.errors import ShardError
from mdel_assets.experiment.experiment import Experiment

_log = logging.getLogger(__name__)


def require_evaluation(index: DocumentIndex, experiment: Experiment) -> None:
    """Refuse a corpus without one document for the splits that models are evaluated on.

    Raises:
        ShardError: the message says how many documents there are, and how to hold some out.

    """
    found = np.zeros(len(ROLES), np.int64)
    for part in index.documents():
        found += np.bincount(part.role[part.survives], minlength=len(ROLES))
    counts = dict(zip(ROLES, found.tolist(), strict=True))
    wanted = {split.split("_")[0] for split in experiment.evaluation.splits}
    if not any(counts[role] for role in ROLES if role in wanted):
        source = experiment.source
        raise ShardError(
            f"None of the corpus's {sum(counts.values())} documents (without duplicates) is held "
            f"out for {' or '.join(sorted(wanted))}, so no model could be measured. A "
            f"source.holdout_fraction of {source.holdout_fraction} needs more documents: add "
            f"some, raise source.holdout_fraction (up to 0.5), or name source.validation and "
            f"source.test."
        )


def warn_of_untrained(counts: Mapping[str, Mapping[str, SplitCount]]) -> None:
    """Log the domains that have documents but none for training: they get no expert."""
    for domain, splits in counts.items():
        held_out = sum(splits[f"{role}_domain"].num_documents for role in ("validation", "test"))
        if held_out and not splits["train"].num_domain_documents:
            _log.warning(
                "%s: no document is for training and %d are for validation and test, so the domain "
                "gets no expert. Add documents to its training shards.",
                domain,
                held_out,
            )
