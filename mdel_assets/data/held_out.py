"""Advice on held-out documents: whether there are enough for a verdict, and what to set if not."""

import math
from collections.abc import Mapping, Sequence

from mdel_assets.data.dataset_counts import SplitCount
from mdel_assets.experiment.evaluation import MIN_DOCUMENTS
from mdel_assets.experiment.fields import Source

# Documents are held out by a hash of their text, so their number varies by about its square root:
# of so many expected ones, `MIN_DOCUMENTS` are there in 98 of 100 domains.
_EXPECTED = 27
# Validation and test get this share each: more would leave too little to train on.
_MOST = 0.2


def fraction_for(num_documents: float, *, least: float) -> float:
    """Return the fraction to hold out so that a domain of this size allows a verdict.

    At least ``least``, and at most a fifth, which is too little for domains of few documents.
    """
    share = _EXPECTED / max(1.0, num_documents)
    scale = 100 if share >= 0.01 else 10_000
    return max(least, min(_MOST, math.ceil(scale * share) / scale))


def allows_a_verdict(num_documents: float) -> bool:
    """Whether a domain of this size can be trained on and judged."""
    return _MOST * num_documents >= _EXPECTED


def held_out_advice(
    counts: Mapping[str, Mapping[str, SplitCount]], *, source: Source, splits: Sequence[str]
) -> str | None:
    """Return what to set so that verdicts are possible on ``splits``; None if they already are.

    ``counts`` are those of the datasets, by domain and split; a domain without text is left out.
    """
    roles = list(dict.fromkeys(split.partition("_")[0] for split in splits))
    few = {
        f"{domain}/{role}_domain": (domain, role, own[f"{role}_domain"].num_domain_documents)
        for domain, own in counts.items()
        for role in roles
        if own["train"].num_domain_documents
        and own[f"{role}_domain"].num_domain_documents < MIN_DOCUMENTS
    }
    if not few:
        return None
    named = ", ".join(f"{split} has {number}" for split, (_, _, number) in few.items())
    given = [role for role in roles if getattr(source, role)]
    remedies = [
        f"Add files with more documents of these domains to source.{role}."
        for role in given
        if any(role == of for _, of, _ in few.values())
    ]
    hashed = {domain for domain, role, _ in few.values() if role not in given}
    if hashed:
        remedies.append(_fraction({d: _num_documents(counts[d]) for d in sorted(hashed)}, source))
    return f"A verdict needs {MIN_DOCUMENTS} documents, but {named}. {' '.join(remedies)}"


def _fraction(sizes: Mapping[str, int], source: Source) -> str:
    """Return advice on the fraction to hold out of domains with these numbers of documents."""
    enough = [number for number in sizes.values() if allows_a_verdict(number)]
    said = [
        f"'{domain}' has {number} documents, too few for both training and evaluation: add text, "
        f"or leave the domain out."
        for domain, number in sizes.items()
        if number not in enough
    ]
    if enough:
        said.append(
            f"Set source.holdout_fraction to {fraction_for(min(enough), least=0.0):g} (it is "
            f"{source.holdout_fraction:g}). This remakes datasets and what depends on them."
        )
    return " ".join(said)


def _num_documents(counts: Mapping[str, SplitCount]) -> int:
    own = (counts[split] for split in ("train", "validation_domain", "test_domain"))
    return sum(split.num_domain_documents for split in own)
