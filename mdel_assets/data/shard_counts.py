"""The counts of a pass over a shard, and the decision whether to refuse the shard."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mdel_assets.data.json_lines import RejectReason
from mdel_assets.data.other_labels import labels_in_words
from mdel_assets.errors import NothingWantedError, ShardError
from mdel_assets.experiment.fields import Source

_NUM_NAMES = 5
# What to do about reasons that do not say it themselves.
_REMEDIES = {
    RejectReason.INVALID_UTF8: (
        "Text that is no UTF-8 may be in another encoding, such as Windows-1252: convert it with "
        "'iconv -f WINDOWS-1252 -t UTF-8'."
    ),
    RejectReason.DOMAIN_NOT_A_LABEL: (
        "A label has to be text (in layout columns also an integer or a boolean): write others, "
        "such as 1.5 or a list, as text."
    ),
}


@dataclasses.dataclass(frozen=True)
class DomainCount:
    """Documents of one domain and their text's UTF-8 bytes."""

    num_documents: int
    num_bytes: int


def domains_of(counts: Mapping[str, Any]) -> dict[str, DomainCount]:
    """Return the domains that the counts of a routed shard's record hold."""
    return {key: DomainCount(**count) for key, count in counts["domains"].items()}


@dataclasses.dataclass(frozen=True)
class UnreadFiles:
    """Files of a folder that were not read, and the first names among them."""

    num_files: int = 0
    names: tuple[str, ...] = ()

    def with_one(self, name: str) -> "UnreadFiles":
        """Return these, and one more."""
        return UnreadFiles(self.num_files + 1, (*self.names, name)[:_NUM_NAMES])


@dataclasses.dataclass(frozen=True)
class ShardCounts:
    """What a pass found.

    ``num_filtered`` documents were left out for their licence, ``num_unclaimed`` for their label,
    ``num_without_text`` because they hold only white space. ``unread_files`` are a folder's files
    of unknown suffixes, by suffix, and those outside its domain folders. ``unknown_labels`` counts
    the labels of no domain, rejected or left out; ``similar_labels`` maps some of them to a
    domain's label that they resemble.
    """

    num_lines: int
    num_blank_lines: int
    num_documents: int
    num_bytes: int
    num_rejects: int
    num_repaired: int
    num_filtered: int
    rejects: dict[str, int]
    unknown_labels: dict[str, int]
    filtered_licenses: dict[str, int]
    domains: dict[str, DomainCount]
    # Records from before these were counted lack them.
    num_without_text: int = 0
    num_unclaimed: int = 0
    similar_labels: dict[str, str] = dataclasses.field(default_factory=dict)
    unread_files: dict[str, UnreadFiles] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, counts: Mapping[str, Any]) -> "ShardCounts":
        """Return what the counts of a record hold."""
        unread = counts.get("unread_files", {})
        files = {
            suffix: UnreadFiles(f["num_files"], tuple(f["names"])) for suffix, f in unread.items()
        }
        return cls(**{**counts, "domains": domains_of(counts), "unread_files": files})


def judge(counts: ShardCounts, *, name: str, source: Source, looks: Sequence[str] = ()) -> None:
    """Refuse a shard without a document, or with too many rejects.

    ``looks`` say what unreadable files look like.

    Raises:
        ShardError: the message has the outcome of the lines, the labels of no domain, and the
            remedy.

    """
    seen = "".join(f" {look}." for look in looks)
    if not (counts.num_lines or counts.unread_files):
        raise ShardError(
            f"{name} holds no record: it is empty, or a header alone. Name another file, or take "
            f"it out of the experiment's 'source'."
        )
    if not counts.num_documents:
        kind = ShardError if counts.num_rejects else NothingWantedError
        raise kind(
            f"{name} holds no readable document in {counts.num_lines} lines: rejects "
            f"{counts.rejects or 'none'}{_labels(counts)}{_licenses(counts)}{_blank(counts)}"
            f"{_unread(counts)}.{seen or _where_to_look(counts)}"
        )
    rate = counts.num_rejects / counts.num_lines
    if rate > source.max_reject_rate:
        raise ShardError(
            f"{name}: {counts.num_rejects} of {counts.num_lines} lines were rejected "
            f"({counts.rejects}{_labels(counts)}), a share of {rate:.2g} where at most "
            f"{source.max_reject_rate:.2g} is allowed.{seen} {_what_lines_lack(counts)}"
            f"{_remedy(counts, source)}"
        )


def unread_in_words(unread: Mapping[str, UnreadFiles]) -> str:
    """Return how many files of which suffix were not read, with names, and what to do."""
    shown = ", ".join(
        f"{found.num_files} {why} ({', '.join(found.names)}"
        f"{', ...' if found.num_files > len(found.names) else ''})"
        for why, found in unread.items()
    )
    return (
        f"{shown}. Files must be in their domain's folder. If a suffix is a text suffix, add it to "
        f"source.text_suffixes"
    )


def _remedy(counts: ShardCounts, source: Source) -> str:
    last = "Correct the shard, or raise source.max_reject_rate."
    num_unknown = counts.rejects.get(RejectReason.UNKNOWN_DOMAIN.value, 0)
    if not num_unknown:
        return last
    if source.other_labels == "leave_out":
        first = "Another spelling of a domain's label is not left out: add it to that"
        return f"{first} domain's 'aliases'. Otherwise {last[0].lower()}{last[1:]}"
    likely = "If a label is misspelt, add it to its domain's 'aliases'. "
    return (
        f"To read only some of the corpus's domains, set source.other_labels: leave_out, which "
        f"leaves out and counts documents with labels of no domain. "
        f"{likely if counts.similar_labels else ''}Otherwise {last[0].lower()}{last[1:]}"
    )


def _what_lines_lack(counts: ShardCounts) -> str:
    found = (told for reason, told in _REMEDIES.items() if reason in counts.rejects)
    return "".join(f"{told} " for told in found)


def _labels(counts: ShardCounts) -> str:
    if not counts.unknown_labels:
        return ""
    shown = labels_in_words(counts.unknown_labels, counts.similar_labels)
    return f"; labels of no domain: {shown}"


def _licenses(counts: ShardCounts) -> str:
    if not counts.num_filtered:
        return ""
    shown = ", ".join(f"'{name}'" for name in list(counts.filtered_licenses)[:5])
    return f"; {counts.num_filtered} documents with licences outside source.licenses: {shown}"


def _blank(counts: ShardCounts) -> str:
    return f"; {counts.num_without_text} without text" if counts.num_without_text else ""


def _unread(counts: ShardCounts) -> str:
    if not counts.unread_files:
        return ""
    return f"; files that are not read: {unread_in_words(counts.unread_files)}"


def _where_to_look(counts: ShardCounts) -> str:
    wanted = "; or remove a shard without any of the wanted domains from source.train"
    return (
        f" {_what_lines_lack(counts)}Check source.text_field and source.domain_field, and that "
        f"'domains' names the corpus's labels{wanted if counts.num_unclaimed else ''}."
    )
