"""What was made from a domain's text, by the records on disk.

A dataset is judged by the documents that it holds, everything else by the inputs in its record.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence

from mdel_assets.line.recorded_artifacts import Recorded

# They hold the text of many domains: the domain's own part is named and removed as a file.
_OF_ALL_TEXT = ("raw_pile_shard", "shard_documents")


@dataclasses.dataclass(frozen=True)
class Derived:
    """An artifact that was made from a domain's text, and how."""

    found: Recorded
    reason: str


def derived_from(
    domain: str,
    found: Sequence[Recorded],
    *,
    shards: Iterable[str],
    count_documents: Callable[[Recorded], int | None],
    never_made: Collection[tuple[str, str]] = (),
) -> list[Derived]:
    """Return what was made from the text of ``domain``, each after what it was made from.

    ``shards`` are those that hold documents of the domain. ``count_documents`` counts those in a
    dataset; None where its files are damaged. An input that is no longer on disk as it was used may
    have held the domain's text: it counts if the corpus has the domain, or if it was the domain's
    own dataset; not if it is one of ``never_made``, the datasets of absent domains.
    """
    return _Walk(domain, found, set(shards), count_documents, never_made).derived()


class _Walk:
    """One walk along the lineage of everything on disk."""

    def __init__(
        self,
        domain: str,
        found: Sequence[Recorded],
        shards: set[str],
        count_documents: Callable[[Recorded], int | None],
        never_made: Collection[tuple[str, str]],
    ) -> None:
        self.domain = domain
        self.never_made = never_made
        self.shards = shards
        # A copied folder has the identity of its original.
        self.by_identity: dict[tuple[str, str], list[Recorded]] = {}
        for entry in found:
            self.by_identity.setdefault(entry.identity, []).append(entry)
        self.counts = {
            entry.identity: count_documents(entry)
            for entry in found
            if entry.record.kind == "domain_dataset"
        }
        self.in_corpus = bool(shards) or any(self.counts.values())
        self.reasons: dict[tuple[str, str], str] = {}

    def derived(self) -> list[Derived]:
        for identity in self.by_identity:
            self._visit(identity)
        # A reason is entered after those of the inputs.
        return [
            Derived(entry, reason)
            for identity, reason in self.reasons.items()
            if reason
            for entry in self.by_identity[identity]
        ]

    def _visit(self, identity: tuple[str, str]) -> str:
        """Return how an artifact was made from the domain's text; empty if it was not."""
        if identity not in self.reasons:
            reason = self._reason(self.by_identity[identity][0])
            self.reasons[identity] = reason
        return self.reasons[identity]

    def _reason(self, entry: Recorded) -> str:
        record = entry.record
        if record.kind == "domain_dataset":
            return self._reason_of_dataset(entry)
        if record.kind in _OF_ALL_TEXT:
            return ""
        sources = [
            label if (label, fingerprint) in self.by_identity else f"{label}, which is gone"
            for label, fingerprint in record.inputs.items()
            if self._holds_text((label, fingerprint))
        ]
        if not sources:
            return ""
        return f"made from {sources[0]}" + (f" and {len(sources) - 1} more" if sources[1:] else "")

    def _holds_text(self, identity: tuple[str, str]) -> bool:
        """Whether an input was made from the domain's text, or may have been."""
        if identity in self.never_made:
            return False
        if identity not in self.by_identity:
            return self.in_corpus or identity[0] == f"domain_dataset '{self.domain}'"
        source = self.by_identity[identity][0].record
        if source.kind in _OF_ALL_TEXT:
            return source.key in self.shards
        return bool(self._visit(identity))

    def _reason_of_dataset(self, entry: Recorded) -> str:
        count, is_own = self.counts[entry.identity], entry.record.key == self.domain
        if count is None:
            return "its files are damaged" if is_own or self.in_corpus else ""
        if is_own and count:
            return "its dataset"
        return f"{count:,} of its documents in the general half" if count else ""
