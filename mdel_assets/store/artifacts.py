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
from pathlib import Path
from typing import Any

from mdel_assets.errors import (
    DamagedArtifactError,
    ForeignArtifactError,
    MissingArtifactError,
)
from mdel_assets.store.digests import file_digest, file_number
from mdel_assets.store.durable_files import (
    exclusively,
    explaining_full_disk,
    swap_into_place,
    sync,
    write_text_atomically,
)
from mdel_assets.store.half_written import remove_left_behind, staging_prefix
from mdel_assets.store.in_use import USE_SUFFIX, use
from mdel_assets.store.looking_once import seen_so_far
from mdel_assets.store.records import Identity, Record, merged_details, shown_counts
from mdel_assets.store.remote.object_store import RemotePlace
from mdel_assets.store.verification import Notes
from mdel_assets.store.versions import library_versions

RECORD_NAME = "record.json"
MAKING_NAME = "making.json"
# Folders in an experiment's work folder that are no work in progress.
KEPT_IN_WORK = ("locks", "verified")
_FAILED_CHECK_NAME = "failed_check"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A place for one artifact: a folder, or named files in a folder that others share.

    ``work`` is the folder, outside every artifact, of its lock and of the notes on its files. One
    that belongs to no experiment's folder has no notes, and its lock beside it. ``owns_folder``:
    the folder is this artifact's alone.

    With ``remote``, its place in an object store, the folder is a cache: an artifact that is there
    and not here is as good as made, and comes here when it is required. Of its files, those that it
    shares with the artifact ``links_to`` become links to that one's.
    """

    kind: str
    key: str
    experiment: str
    folder: Path
    record_path: Path
    remedy: str
    work: Path | None = None
    owns_folder: bool = True
    remote: RemotePlace | None = dataclasses.field(default=None, compare=False, repr=False)
    links_to: "Artifact | None" = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.kind} '{self.key}'" if self.key else self.kind

    def read_record(self) -> Record | None:
        """Return the record, here or the newest in the store; None if it was never made."""
        seen = seen_so_far()
        if seen is None:
            return self._read_record()
        if self.record_path not in seen.records:
            seen.records[self.record_path] = self._read_record()
        return seen.records[self.record_path]

    def _read_record(self) -> Record | None:
        try:
            return Record.parse(self.record_path.read_text("utf-8"))
        except FileNotFoundError:
            return self.remote.newest() if self.remote else None
        except ValueError as error:
            raise DamagedArtifactError(
                f"{self.record_path} is not a record ({error}). Delete that file, then "
                f"{self.remedy}."
            ) from error

    def last_record(self) -> Record | None:
        """Return the record, or None also where it is damaged: for what will be made anew."""
        try:
            return self.read_record()
        except DamagedArtifactError:
            return None

    def require(self) -> Record:
        """Return the record of an artifact that is here, whole, and this experiment's own.

        One that is in the store alone is fetched.

        Raises:
            MissingArtifactError: it was never made.
            ForeignArtifactError: another experiment or asset made it.
            DamagedArtifactError: a file is missing, or does not hold what was recorded.

        """
        record = self.look()
        if self.remote:
            self.bring(record)
        return record

    @property
    def use_path(self) -> Path:
        """What whoever reads it holds, where the home is a cache: see `store.in_use`."""
        return self.lock_path.with_name(f"{self.lock_path.name}{USE_SUFFIX}")

    def look(self) -> Record:
        """Return the record of an artifact that is whole, here or in the store; as `require`."""
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
        problem = self._damage_seen(record) if self.record_path.exists() else None
        if problem and self.read_record() != record:
            # Another process made it anew meanwhile.
            return self.look()
        if problem and not (self.remote and self.remote.find(record.fingerprint)):
            raise DamagedArtifactError(
                f"{self.label} is damaged: {problem}. Nothing is made from it. To make it anew, "
                f"{self.remedy}."
            )
        return record

    def is_made(self) -> bool:
        """Whether it was made, here or in the store; it may be out of date."""
        return self.record_path.exists() or bool(self.remote and self.remote.newest())

    def all_details(self, record: Record) -> dict[str, Any]:
        """Return the record's details together with how the artifact was made.

        A record of before the two were kept apart holds both.
        """
        return merged_details(record.details, self._making())

    def _making(self) -> dict[str, Any]:
        try:
            making = json.loads((self.folder / MAKING_NAME).read_text("utf-8"))
        except (OSError, ValueError):
            making = None
        if not isinstance(making, dict) and self.remote and not self.record_path.exists():
            # newest() is what `read_record` returns then.
            newest = self.remote.newest()
            entry = self.remote.find(newest.fingerprint) if newest else None
            making = dict(entry.making or {}) if entry else None
        return making if isinstance(making, dict) else {}

    def _damage_seen(self, record: Record) -> str | None:
        seen = seen_so_far()
        if seen is None:
            return self.damage(record)
        if self.record_path not in seen.damages:
            seen.damages[self.record_path] = self.damage(record)
        return seen.damages[self.record_path]

    def bar(self, check: str) -> None:
        """Let nothing be made from the artifact, which failed a check, until it is made anew."""
        write_text_atomically(self.folder / _FAILED_CHECK_NAME, check)
        if self.remote and (record := self.last_record()):
            self.remote.remove(record.fingerprint)

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
        if not self.record_path.exists() and self.remote and (at := self.remote.newest_at()):
            return at.timestamp()
        return self.record_path.stat().st_mtime

    def remove(self) -> None:
        """Remove it, where it is here: its folder, or its own files in a shared one.

        The record goes last: by it, what an interruption leaves is found.
        """
        if self.owns_folder and self.folder.exists():
            for path in set(self.folder.iterdir()) - {self.record_path}:
                is_folder = path.is_dir() and not path.is_symlink()
                shutil.rmtree(path) if is_folder else path.unlink()
            shutil.rmtree(self.folder)
        elif not self.owns_folder:
            record = self.last_record()
            for name in record.files if record else ():
                (self.folder / name).unlink(missing_ok=True)
            self.record_path.unlink(missing_ok=True)

    def holds(self, fingerprint: str) -> Record | None:
        """Return the record if the artifact is whole and has ``fingerprint``, here or in the store.

        None otherwise.
        """
        try:
            record = self.look()
        except (MissingArtifactError, DamagedArtifactError):
            pass
        else:
            if record.fingerprint == fingerprint:
                return record
        entry = self.remote.find(fingerprint) if self.remote else None
        return entry.record if entry else None

    def is_here(self, record: Record) -> bool:
        """Whether the artifact of ``record`` lies here, whole."""
        try:
            here = Record.parse(self.record_path.read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return False
        return here == record and self.damage(record) is None

    def bring(self, record: Record) -> None:
        """Fetch the artifact of ``record`` from the store into its place, unless it is here.

        Raises:
            DamagedArtifactError: it is not in the store, or not whole.

        """
        use(self.use_path)
        if self.is_here(record):
            return
        assert self.remote
        if self.links_to and self.links_to.is_made():
            self.links_to.require()
        with exclusively(self.lock_path.with_name(f"{self.lock_path.name}.fetching")):
            if self.is_here(record):
                return
            if (entry := self.remote.find(record.fingerprint)) is None:
                raise DamagedArtifactError(
                    f"{self.label} is neither whole at {self.folder} nor in "
                    f"{self.remote.store.address}: {self.remedy}."
                )
            with self.staging() as stage:
                self.remote.fetch(entry.record, stage, at_hand=self._at_hand())
                self._move_in(stage, entry.record, entry.making)
        if seen := seen_so_far():
            seen.records.pop(self.record_path, None)
            seen.damages.pop(self.record_path, None)
        _log.info("%s is fetched from %s", self.label, self.remote.store.address)

    def _at_hand(self) -> dict[str, Path]:
        """Return files here that the artifact in the store may have too, by their digests."""
        found: dict[str, Path] = {}
        for other in (self, self.links_to):
            if other and other.record_path.exists() and (record := other.last_record()):
                found |= {f["xxh3"]: other.folder / name for name, f in record.files.items()}
        return found

    def push(self, record: Record) -> Record:
        """Send the artifact of ``record``, which is here, to the store; return the store's record.

        That differs where another machine made it too, and was first: then that one comes here.
        """
        if self.remote is None:
            return record
        making = self._making() if self.owns_folder else {}
        first = self.remote.push(record, making or None, self.folder)
        if first != record:
            _log.warning("%s was made elsewhere meanwhile; that one is kept", self.label)
            self.bring(first)
        return first

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
        self._move_in(stage, record, making)
        size_mib = sum(file["size_bytes"] for file in record.files.values()) / 2**20
        _log.info("%s is made: %.1f MiB%s", self.label, size_mib, shown_counts(record.counts))
        return record

    def _move_in(self, stage: Path, record: Record, making: Mapping[str, Any] | None) -> None:
        """Write the record beside its files in ``stage``, and move all into the final place."""
        files = [stage / name for name in sorted(record.files)]
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
