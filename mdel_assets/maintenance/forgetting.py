"""Forgetting a domain: what was made from its text, by lineage; marking it, or removing it.

Lineage is read from the records on disk, so that it also holds for what the experiment no longer
names. A dataset of another domain is made from it, too, where its general half holds its documents.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from mdel_assets.data.shard_counts import domains_of
from mdel_assets.errors import (
    UnknownKeyError,
    unknown_name_message,
)
from mdel_assets.home import MdelHome
from mdel_assets.hub.retries import RetryPolicy
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.locks import making, making_nothing
from mdel_assets.line.recorded_artifacts import Recorded, record_paths, recorded_at
from mdel_assets.maintenance.derived_artifacts import Derived, derived_from
from mdel_assets.maintenance.domain_text import TextFound, shards_with, text_of
from mdel_assets.maintenance.forgetting_in_store import (
    fetched_aside,
    place_of,
    recorded_in_store,
    remove_from_store,
    shards_in_store,
)
from mdel_assets.maintenance.text_on_cards import cards_showing
from mdel_assets.publishing.backend import Repository
from mdel_assets.publishing.forgotten import read_forgotten
from mdel_assets.publishing.publication import Publication, with_publishing_retries
from mdel_assets.publishing.publisher import open_backend
from mdel_assets.store.artifacts import RECORD_NAME
from mdel_assets.store.durable_files import exclusively, write_text_atomically
from mdel_assets.store.in_use import USE_SUFFIX

_PUBLICATION = "hub_"
# Documents by domain, of versions that had to be fetched for that, by their fingerprints.
_COUNTED: dict[str, dict[str, int]] = {}


@dataclasses.dataclass(frozen=True)
class ForgettingPlan:
    """All that is left of a domain.

    ``text`` lies outside of artifacts' lineage. ``derived`` are artifacts, ``publications`` records
    of what was published of them.
    """

    domain: str
    text: Sequence[TextFound]
    derived: Sequence[Derived]
    publications: Sequence[Recorded]

    @property
    def repositories(self) -> list[str]:
        """Where something is published, as ``kind owner/name on PLACE``."""
        told = [Publication.of(entry.record) for entry in self.publications]
        return [f"{p.repository_kind} {p.repository} on {p.location}" for p in told]

    @property
    def removable(self) -> list[TextFound]:
        """The text that `delete_local` removes."""
        return [text for text in self.text if not text.remedy]

    @property
    def size_bytes(self) -> int:
        """The size of everything that `delete_local` removes."""
        sizes = [entry.found.size_bytes for entry in self.derived]
        return sum(sizes) + sum(text.size_bytes for text in self.removable)


def plan_forgetting(home: MdelHome, lineage: Lineage, domain: str) -> ForgettingPlan:
    """Return everything in a home that was made from the text of an experiment's ``domain``.

    Nothing of that is there where the corpus holds no document of the domain.

    Raises:
        UnknownKeyError: neither the experiment nor anything on disk knows the domain.
        DamagedArtifactError: a record cannot be read: what it was made from is unknown.

    """
    root = lineage.root
    found = _recorded(home, lineage)
    _require_known(lineage, found, domain)
    shards = [*shards_with(domain, root), *shards_in_store(found, domain)]
    artifacts = [entry for entry in found if not entry.record.kind.startswith(_PUBLICATION)]
    derived = derived_from(
        domain,
        artifacts,
        shards=shards,
        count_documents=lambda entry: _count_documents(entry, domain),
        never_made=lineage.absent_datasets(),
    )
    publications = [
        entry
        for entry in found
        # What it was made of may be gone already.
        if entry.record.kind.startswith(_PUBLICATION)
        and domain in Publication.of(entry.record).domains
    ]
    is_there = bool(shards or derived or publications or _was_routed(lineage, domain))
    text = list(text_of(domain, home, lineage.experiment.name)) if is_there else []
    text += cards_showing(domain, [entry for entry in publications if not entry.is_displaced])
    return ForgettingPlan(domain, text, derived, publications)


def _was_routed(lineage: Lineage, domain: str) -> bool:
    """Whether a raw shard held the domain, also where its documents were removed since."""
    records = (
        lineage.artifact("shard_documents", path.parent.name)
        for path in lineage.root.glob(f"documents/[!.]*/{RECORD_NAME}")
    )
    return any(domain in domains_of(record.counts) for a in records if (record := a.read_record()))


def mark_forgotten(lineage: Lineage, plan: ForgettingPlan) -> None:
    """Write down what is to be forgotten: publishing refuses it from now on."""
    with exclusively(lineage.root / "work" / "locks" / "forgotten"):
        marked = dict(read_forgotten(lineage))
        for entry in plan.derived:
            artifact, record = entry.found.artifact, entry.found.record
            marked[record.fingerprint] = f"{artifact.label}, of '{plan.domain}'"
        text = json.dumps(marked, indent=2, sort_keys=True)
        write_text_atomically(lineage.forgotten, text + "\n")


def plan_after_publishing(home: MdelHome, lineage: Lineage, domain: str) -> ForgettingPlan:
    """Return the plan for ``domain`` once what is being published now has its records."""
    with making_nothing(_locks(home, lineage, kinds=_PUBLICATION)):
        return plan_forgetting(home, lineage, domain)


def delete_local(home: MdelHome, lineage: Lineage, domain: str) -> ForgettingPlan:
    """Remove the artifacts and the text of ``domain``, here and in the store; return what that was.

    What is being made meanwhile may hold the text, too: it is waited for, then looked for.
    Records of what is published stay, so that it can be deleted later.
    """
    found = [entry.found.artifact for entry in plan_forgetting(home, lineage, domain).derived]
    with making_nothing(_locks(home, lineage), found):
        plan = plan_forgetting(home, lineage, domain)
        # What was made last goes first: lineage still reaches the rest if this is interrupted.
        for entry in reversed(plan.derived):
            entry.found.remove()
        for text in reversed(plan.removable):
            text.remove()
        if plan.derived or plan.removable:
            own = [entry.found.artifact for entry in plan.derived]
            remove_from_store(
                lineage, [a for a in own if a.record_path.is_relative_to(lineage.root)]
            )
    return plan


def _locks(home: MdelHome, lineage: Lineage, *, kinds: str = "") -> list[Path]:
    """Return the locks of what the experiment and ``mdel merge`` may be making now."""
    own = (lineage.root / "work" / "locks").glob(f"{kinds}*")
    # Whoever only reads makes nothing, and may go on for long.
    makers = [path for path in own if path.suffix != USE_SUFFIX]
    return [*makers, *home.merges.rglob(".*.lock")]


def delete_remote(
    plan: ForgettingPlan, *, retries: RetryPolicy | None = None, lineage: Lineage | None = None
) -> Iterator[str]:
    """Delete every repository that ``plan`` names, and its record; yield each when it is gone.

    Raises:
        MissingTokenError: one is on a Hub, and there is no token.
        PublishingError: a server refused.

    """
    for entry, told in zip(plan.publications, plan.repositories, strict=True):
        last = Publication.of(entry.record)
        backend = open_backend(last.location)
        repository = Repository(last.repository_kind, last.repository)
        with making(entry.artifact):
            with_publishing_retries(
                functools.partial(backend.delete, repository),
                what=f"deleting {repository}",
                retries=retries or RetryPolicy(),
            )
            entry.remove()
            if lineage and lineage.remote:
                place = place_of(lineage, entry.artifact.record_path)
                lineage.remote.remove(place, lineage.remote.versions(place))
        yield told


def _recorded(home: MdelHome, lineage: Lineage) -> list[Recorded]:
    """Return what lies in the experiment's folder, and what ``mdel merge`` made of it."""
    merges = [recorded_at(path) for path in record_paths(home.merges, work="")]
    own = [entry for entry in merges if entry.record.experiment == lineage.experiment.name]
    root = lineage.root
    here = (recorded_at(path, within=lineage) for path in record_paths(root))
    return [*here, *own, *recorded_in_store(lineage)]


def _require_known(lineage: Lineage, found: Sequence[Recorded], domain: str) -> None:
    on_disk = {entry.record.key for entry in found if entry.record.kind == "domain_dataset"}
    known = dict.fromkeys([*lineage.experiment.domain_keys, *sorted(on_disk)])
    if domain not in known:
        raise UnknownKeyError(unknown_name_message("domain", domain, known))


def _count_documents(entry: Recorded, domain: str) -> int | None:
    """Return how many documents of ``domain`` a dataset holds; None where its files are damaged."""
    from mdel_assets.publishing.dataset_card import documents_by_domain

    if entry.is_displaced:
        # Each plan of a command asks again.
        if entry.record.fingerprint not in _COUNTED:
            with fetched_aside(entry) as folder:
                _COUNTED[entry.record.fingerprint] = documents_by_domain(folder)
        return _COUNTED[entry.record.fingerprint].get(domain, 0)
    if entry.artifact.remote:
        # It is in the store alone; whether it holds the text is not in its record.
        entry.artifact.require()
    if entry.artifact.damage(entry.record):
        return None
    return documents_by_domain(entry.artifact.folder).get(domain, 0)
