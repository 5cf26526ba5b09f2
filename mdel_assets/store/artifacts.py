"""Artifacts: whole or not there, each with its record; the only writer of finished ones.

An artifact is written into a hidden sibling, synced, and renamed into place, so it exists whole or
not at all. Beside it lies ``record.json``: what it is, the config and inputs that made it, counts,
and a digest of every file. Records carry no time and no machine: same inputs, same bytes. How a
model was made this time, its pace and its run's address, lies beside in ``making.json``.
"""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from mdel_assets.errors import (
    DamagedArtifactError,
    ForeignArtifactError,
    MissingArtifactError,
)
from mdel_assets.store.digests import file_digest, file_number
from mdel_assets.store.durable_files import (
    explaining_full_disk,
    swap_into_place,
    sync,
    write_text_atomically,
)
from mdel_assets.store.half_written import remove_left_behind, staging_prefix
from mdel_assets.store.records import Identity, Record
from mdel_assets.store.verification import Notes
from mdel_assets.store.versions import library_versions

RECORD_NAME = "record.json"
MAKING_NAME = "making.json"
# Folders in an experiment's work folder that are no work in progress.
KEPT_IN_WORK = ("locks", "verified")
_FAILED_CHECK_NAME = "failed_check"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Seen:
    """By the record's path: records, and what is wrong with their files, as they were found."""

    records: dict[Path, Record | None] = dataclasses.field(default_factory=dict)
    damages: dict[Path, str | None] = dataclasses.field(default_factory=dict)


_seen: ContextVar[_Seen | None] = ContextVar("_seen", default=None)


@contextlib.contextmanager
def looking_once() -> Iterator[None]:
    """Look at every record and its files at most once in this block, in which nothing is made."""
    token = _seen.set(_seen.get() or _Seen())
    try:
        yield
    finally:
        _seen.reset(token)


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A place for one artifact: a folder, or named files in a folder that others share.

    ``work`` is the folder, outside every artifact, of its lock and of the notes on its files. One
    that belongs to no experiment's folder has no notes, and its lock beside it. ``owns_folder``:
    the folder is this artifact's alone.
    """

    kind: str
    key: str
    experiment: str
    folder: Path
    record_path: Path
    remedy: str
    work: Path | None = None
    owns_folder: bool = True

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.kind} '{self.key}'" if self.key else self.kind

    def read_record(self) -> Record | None:
        """Return the record, or None where the artifact was never made."""
        seen = _seen.get()
        if seen is None:
            return self._read_record()
        if self.record_path not in seen.records:
            seen.records[self.record_path] = self._read_record()
        return seen.records[self.record_path]

    def _read_record(self) -> Record | None:
        try:
            return Record.parse(self.record_path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise DamagedArtifactError(
                f"{self.record_path} is not a record ({error}). Delete its folder, then "
                f"{self.remedy}."
            ) from error

    def last_record(self) -> Record | None:
        """Return the record, or None also where it is damaged: for what will be made anew."""
        try:
            return self.read_record()
        except DamagedArtifactError:
            return None

    def require(self) -> Record:
        """Return the record of an artifact that is there, whole, and this experiment's own.

        Raises:
            MissingArtifactError: it was never made.
            ForeignArtifactError: another experiment or asset made it.
            DamagedArtifactError: a file is missing, or does not hold what was recorded.

        """
        record = self.read_record()
        if record is None:
            raise MissingArtifactError(f"{self.label} is missing at {self.folder}: {self.remedy}.")
        seen = (record.experiment, record.kind, record.key)
        if seen != (self.experiment, self.kind, self.key):
            raise ForeignArtifactError(
                f"{self.folder} holds {record.kind} '{record.key}' of experiment "
                f"'{record.experiment}', expected {self.label} of experiment '{self.experiment}'. "
                f"Move it away, then {self.remedy}."
            )
        problem = self._damage_seen(record)
        if problem and self.read_record() != record:
            # Another process made it anew meanwhile.
            return self.require()
        if problem:
            raise DamagedArtifactError(
                f"{self.label} is damaged: {problem}. Nothing is made from it. To make it anew, "
                f"{self.remedy}."
            )
        return record

    def all_details(self, record: Record) -> dict[str, Any]:
        """Return the record's details together with how the artifact was made.

        A record of before the two were kept apart holds both.
        """
        try:
            making = json.loads((self.folder / MAKING_NAME).read_text("utf-8"))
        except (OSError, ValueError):
            making = None
        return _merged(record.details, making if isinstance(making, dict) else {})

    def _damage_seen(self, record: Record) -> str | None:
        seen = _seen.get()
        if seen is None:
            return self.damage(record)
        if self.record_path not in seen.damages:
            seen.damages[self.record_path] = self.damage(record)
        return seen.damages[self.record_path]

    def bar(self, check: str) -> None:
        """Let nothing be made from the artifact, which failed a check, until it is made anew."""
        write_text_atomically(self.folder / _FAILED_CHECK_NAME, check)

    def damage(self, record: Record, *, read_all: bool = False) -> str | None:
        """Say which file is missing or does not hold what was recorded; None if all is well.

        A file is read where it was not, or changed since; with ``read_all`` in any case. A check
        that failed is a damage, too.
        """
        failed = self.folder / _FAILED_CHECK_NAME
        if self.owns_folder and failed.is_file():
            return f"it failed its check {failed.read_text('utf-8')}"
        return self._notes.problem(record.files, trust=not read_all)

    @property
    def _notes(self) -> Notes:
        notes = self.work / "verified" / f"{self.name}.json" if self.work else None
        return Notes(self.folder, notes)

    @property
    def lock_path(self) -> Path:
        """What whoever makes it holds: see `mdel_assets.line.locks`."""
        beside = self.folder.with_name(f".{self.folder.name}.lock")
        return self.work / "locks" / self.name if self.work else beside

    @property
    def name(self) -> str:
        """What tells it from the others of its experiment, as a file's name."""
        return f"{self.kind}-{self.key}".removesuffix("-")

    def work_name(self, identity: Identity) -> str:
        """Return the name of the folder of work in progress on what ``identity`` says."""
        return f"{self.name}-{identity.fingerprint}"

    def made_at(self) -> float:
        """Return when it was made, in seconds since 1970: the time of its record's file."""
        return self.record_path.stat().st_mtime

    def remove(self) -> None:
        """Remove it, where it is there: its folder, or its own files in a shared one."""
        if self.owns_folder:
            if self.folder.exists():
                shutil.rmtree(self.folder)
            return
        record = self.last_record()
        for name in record.files if record else ():
            (self.folder / name).unlink(missing_ok=True)
        self.record_path.unlink(missing_ok=True)

    def holds(self, fingerprint: str) -> Record | None:
        """Return the record if the artifact is whole and has ``fingerprint``, else None."""
        try:
            record = self.require()
        except (MissingArtifactError, DamagedArtifactError):
            return None
        return record if record.fingerprint == fingerprint else None

    def digests_by_file(self) -> dict[tuple[int, int], str]:
        """Return the recorded digest of every file, by device and number of the file."""
        record = self.require()
        return {
            file_number(self.folder / name): file["xxh3"] for name, file in record.files.items()
        }

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Give a hidden empty folder beside the final place; it is removed if not published.

        What a killed process left there of the same artifact is removed, too.

        Raises:
            DiskFullError: the disk or a quota filled; nothing is left behind.

        """
        parent = self.folder.parent if self.owns_folder else self.folder
        parent.mkdir(parents=True, exist_ok=True)
        name = self.folder.name if self.owns_folder else self.record_path.name
        remove_left_behind(parent, name)
        stage = Path(tempfile.mkdtemp(prefix=staging_prefix(name), dir=parent))
        stage.chmod(0o755)
        try:
            with explaining_full_disk(self.label, parent):
                yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    def publish(
        self,
        stage: Path,
        identity: Identity,
        *,
        counts: Mapping[str, Any] | None = None,
        details: Mapping[str, Any] | None = None,
        making: Mapping[str, Any] | None = None,
        known_digests: Mapping[tuple[int, int], str] | None = None,
    ) -> Record:
        """Write the record, sync everything in ``stage`` and move it into the final place.

        ``making`` is what would differ between two that are the same; it has the places in
        ``details`` that it is to be read in. Only what owns its folder may have it.
        ``known_digests`` are those of files that need not be read for it, by `file_number`.
        """
        files = sorted(path for path in stage.rglob("*") if path.is_file())
        known = known_digests or {}
        record = Record(
            kind=self.kind,
            key=self.key,
            experiment=self.experiment,
            fingerprint=identity.fingerprint,
            code_version=identity.code_version,
            config=dict(identity.config),
            inputs=dict(identity.inputs),
            counts=dict(counts or {}),
            details=dict(details or {}),
            files={
                str(path.relative_to(stage)): {
                    "size_bytes": path.stat().st_size,
                    "xxh3": known.get(file_number(path)) or file_digest(path),
                }
                for path in files
            },
            versions=library_versions(),
        ).sealed()
        record_file = stage / self.record_path.name
        record_file.write_text(record.text(), "utf-8")
        if making:
            (stage / MAKING_NAME).write_text(json.dumps(making, indent=2, sort_keys=True) + "\n")
        for path in [*files, record_file]:
            sync(path)
        if self.owns_folder:
            sync(stage)
            swap_into_place(stage, self.folder)
        else:
            for path in [*files, record_file]:
                os.replace(path, self.folder / path.name)
        sync(self.folder.parent if self.owns_folder else self.folder)
        self._notes.write(record.files)
        size_mib = sum(file["size_bytes"] for file in record.files.values()) / 2**20
        _log.info("%s is made: %.1f MiB%s", self.label, size_mib, _shown(record.counts))
        return record


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``first`` with what ``second`` has besides, inside of entries that both have, too."""
    both = {
        key: _merged(first[key], value)
        for key, value in second.items()
        if isinstance(first.get(key), Mapping) and isinstance(value, Mapping)
    }
    return {**first, **second, **both}


def _shown(counts: Mapping[str, Any]) -> str:
    """Return the plain numbers among ``counts`` for one line of the log."""
    numbers = {name: value for name, value in counts.items() if type(value) is int}
    return "".join(f", {name} {value:,}" for name, value in numbers.items())
