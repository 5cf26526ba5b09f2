"""Lineage: what every artifact is made from, as its kind declares it, without Dagster.

`Lineage.identity(kind, key)` gives an artifact's expected identity from the experiment and the
records of its inputs. Artifacts carry that identity; `mdel run` and `mdel status` compare it with
what lies on disk.
"""

import contextlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mdel_assets.errors import ExperimentError, MdelError, MissingArtifactError
from mdel_assets.line.kind import Input, Kind
from mdel_assets.line.presence import DATASET, Presence, has_training_text
from mdel_assets.line.staleness import Stale, reason_to_remake
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.looking_once import looking_once, seen_so_far
from mdel_assets.store.records import Identity, Record


class Lineage(Presence):
    """The identities of all artifacts of one experiment."""

    def identity(
        self, kind: str, key: str = "", *, coming: Mapping[str, str] = MappingProxyType({})
    ) -> Identity:
        """Return what the artifact should be, given its inputs as they are on disk.

        ``coming`` are the fingerprints, by label, of inputs that will be there, or will be others.

        Raises:
            MissingArtifactError: an input was never made; the message names the command.

        """
        declared = self.registry[kind]
        with looking_once() if self.remote else contextlib.nullcontext():
            config = declared.config(self, key)
            inputs = self._fingerprints(self.inputs(kind, key), coming)
        return self._identity(declared, key, config, inputs)

    def _identity(
        self, kind: Kind, key: str, config: dict[str, Any], inputs: dict[str, str]
    ) -> Identity:
        return Identity(
            kind=kind.name,
            key=key,
            experiment=self.experiment.name,
            code_version=kind.code_version,
            config=config,
            inputs=inputs,
        )

    def source_identity(self, kind: str, key: str) -> Identity:
        """Return the identity of a source but for its config, which says what was found."""
        return self._identity(self.registry[kind], key, {}, {})

    def _fingerprints(
        self, inputs: Sequence[Artifact], coming: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the inputs' fingerprints; an absent domain's is of the dataset it would have."""
        has_datasets = any(artifact.kind == DATASET for artifact in inputs)
        absent = dict(self.absent_datasets()) if has_datasets else {}
        return {
            artifact.label: absent.get(artifact.label) or self._version(artifact).fingerprint
            for artifact in inputs
            if artifact.label not in coming
        } | dict(coming)

    def _version(self, artifact: Artifact) -> Record:
        """Return the record of an input: of several versions, that of the experiment as it is now.

        There is only one, save where the store has others than this home.
        """
        versions = artifact.remote.versions() if artifact.remote else set()
        if not versions or versions == {
            record.fingerprint for record in [artifact.last_record()] if record
        }:
            return artifact.look()
        seen, path = seen_so_far(), artifact.record_path
        assert seen
        if path not in seen.current:
            is_source = self.registry[artifact.kind].current is not None
            seen.current[path] = None if is_source else self._current_if_known(artifact)
        return seen.current[path] or artifact.look()

    def _current_if_known(self, artifact: Artifact) -> Record | None:
        try:
            return self.current(artifact.kind, artifact.key)
        except MissingArtifactError:
            return None

    def bring_inputs(self, kind: str, key: str = "") -> None:
        """Have everything here, in the right version, that an artifact is made from.

        Raises:
            MdelError: something is missing, or the store failed.

        """
        if self.remote is None:
            return
        expected = self.identity(kind, key).inputs
        for artifact in self.inputs(kind, key):
            record = artifact.holds(expected[artifact.label])
            # An absent domain's dataset was never made.
            if record:
                artifact.bring(record)

    def push_inputs(self, kind: str, key: str = "") -> None:
        """Have everything in the store that an artifact is made from: jobs elsewhere fetch it."""
        if self.remote is None:
            return
        for artifact in self.inputs(kind, key):
            record = artifact.last_record() if artifact.record_path.exists() else None
            if record and artifact.remote and not artifact.remote.find(record.fingerprint):
                artifact.push(artifact.require())

    def settle(self, kind: str, key: str, record: Record) -> Record:
        """Have a current artifact here, and in the store if there is one; return its record."""
        artifact = self.artifact(kind, key)
        if artifact.remote is None:
            return record
        artifact.bring(record)
        return record if artifact.remote.find(record.fingerprint) else artifact.push(record)

    def inputs(self, kind: str, key: str = "") -> list[Artifact]:
        """Return what an artifact is made from, whether that is there or not."""
        declared = self.registry[kind]
        taken = declared.takes(self, declared.inputs(self.experiment, key))
        return [self.artifact(*entry) for entry in taken]

    def current(self, kind: str, key: str = "") -> Record | None:
        """Return the record if the artifact is whole and is what it should be, else None."""
        if find := self.registry[kind].current:
            return find(self, key)
        return self.artifact(kind, key).holds(self.identity(kind, key).fingerprint)

    def stale(self, kind: str, key: str = "") -> Stale | None:
        """Say why the artifact would be made anew, or None if it is current."""
        is_source = self.registry[kind].current is not None
        try:
            if self.current(kind, key):
                return None
            expected = None if is_source else self.identity(kind, key)
        except MissingArtifactError:
            return Stale(kind, key, "an input is missing")
        except MdelError as error:
            return Stale(kind, key, str(error))
        return Stale(kind, key, reason_to_remake(self.artifact(kind, key), expected))

    def to_do(self, kind: str, key: str = "") -> Stale | None:
        """Say why a run would make the artifact, or only push it to the store; None if neither."""
        if stale := self.stale(kind, key):
            return stale
        artifact = self.artifact(kind, key)
        if artifact.remote is None:
            return None
        record = artifact.read_record()
        is_pushed = record is None or artifact.remote.find(record.fingerprint)
        return (
            None if is_pushed else Stale(kind, key, f"not in {artifact.remote.store.address} yet")
        )

    def absent_domains(self) -> list[str]:
        """Domains of which the corpus is known to have no training document.

        What was not read yet, or would be read anew, is not known to be absent. Records alone are
        read: the definitions ask this whenever they are loaded.
        """
        try:
            with looking_once():
                unrouted = self.unrouted_domains()
                return [
                    key
                    for key in self.experiment.domain_keys
                    if key in unrouted or self._is_without_training_text(key)
                ]
        except MdelError:
            return []

    def _is_without_training_text(self, domain: str) -> bool:
        record = self.artifact(DATASET, domain).read_record()
        if record is None or has_training_text(record):
            return False
        return record.fingerprint == self._dataset_by_records(domain)

    def absent_datasets(self) -> set[tuple[str, str]]:
        """Return label and fingerprint of the dataset that each unrouted domain would have.

        None where the files of the shards are gone.
        """
        try:
            return {
                (self.artifact(DATASET, domain).label, self._dataset_by_records(domain))
                for domain in self.unrouted_domains()
            }
        except ExperimentError:
            return set()

    def _dataset_by_records(self, domain: str) -> str:
        """Return the fingerprint that a dataset would have; no file of a document is read."""
        declared = self.registry[DATASET]
        records = {entry.label: entry.read_record() for entry in self.inputs(DATASET, domain)}
        inputs = {label: record.fingerprint for label, record in records.items() if record}
        config = declared.config(self, domain)
        return self._identity(declared, domain, config, inputs).fingerprint


def with_text(lineage: Lineage, inputs: Sequence[Input]) -> list[Input]:
    """Leave out the datasets of domains without training text.

    Raises:
        MissingArtifactError: a dataset was never made, so that this is not known.

    """
    present = set(lineage.present_domains())
    return [entry for entry in inputs if entry.kind != DATASET or entry.key in present]


def present(lineage: Lineage, inputs: Sequence[Input]) -> list[Input]:
    """Leave out what the corpus has nothing for; raises as `with_text`."""
    keys = {kind: set(lineage.keys(kind)) for kind in dict.fromkeys(kind for kind, _ in inputs)}
    return [entry for entry in with_text(lineage, inputs) if entry.key in keys[entry.kind]]
