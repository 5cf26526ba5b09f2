"""What the doctor looks at outside of Dagster: the home, its artifacts, the disk, the network.

Each examination yields findings: a sentence that explains, and where it can be mended the mending.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mdel_assets.errors import MdelError
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.home import MdelHome
from mdel_assets.hub.credentials import find_token
from mdel_assets.kinds import KINDS
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.locks import making
from mdel_assets.line.recorded_artifacts import (
    named_by,
    placed_at,
    record_paths,
    unknown_artifact,
)
from mdel_assets.store.artifacts import RECORD_NAME, Artifact
from mdel_assets.store.half_written import (
    ELSEWHERE_SECONDS,
    dead_writer,
    final_place,
    staging_folders,
)
from mdel_assets.store.in_use import unused
from mdel_assets.store.records import Record
from mdel_assets.tracking import tracking_mode

_WORK_IN_PROGRESS = re.compile(r"(?P<kind>[a-z_]+)(-(?P<key>.+))?-[0-9a-f]{32}")
_LOW_DISK_BYTES = 2 * 2**30
_TIMEOUT_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that is wrong: a sentence that explains it, and how it can be mended.

    ``repair`` mends it and says what it did; None where a person has to, as
    ``sentence`` tells.
    """

    sentence: str
    repair: Callable[[], str] | None = None


def examine_home(home: MdelHome, experiment: Experiment) -> Iterator[Finding]:
    """Look at the experiment's Dagster instance: is it there, are its databases whole."""
    folder = home.dagster_home(experiment.name)
    if not (folder / "dagster.yaml").exists():

        def repair() -> str:
            home.initialize(experiment.name)
            return f"created {folder}"

        yield Finding(
            f"{folder} has no dagster.yaml: runs would have no limits, and the web UI would ask "
            f"for a sign-up.",
            repair,
        )
    for database in sorted(folder.rglob("*.db")):
        if problem := _database_problem(database):
            yield Finding(
                f"The database {database} is damaged ({problem}). Stop everything, move it away "
                f"and start again: artifacts are not touched, the history in it is lost."
            )


def _database_problem(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path, timeout=_TIMEOUT_SECONDS)) as database:
        try:
            (answer,) = database.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            return "" if "locked" in str(error) else str(error)
    return "" if answer == "ok" else str(answer)


def examine_folders(home: MdelHome) -> Iterator[Finding]:
    """Look for folders that a killed process left half-written."""
    for folder in staging_folders(home.root):
        # On another host, a job that goes on for days looks like one that is dead.
        with _in_no_making(folder, home) as is_left:
            writer = dead_writer(folder) if is_left else None
        if writer is None:
            continue

        def repair(folder: Path = folder) -> str:
            with _in_no_making(folder, home) as is_left:
                if not is_left:
                    return f"left {folder}: somebody makes it now"
                # Who makes the same artifact again removes it, too.
                shutil.rmtree(folder, ignore_errors=True)
                folder.unlink(missing_ok=True)
            return f"removed {folder}"

        yield Finding(
            f"{folder} ({_size_mib(folder):.0f} MiB) was left half-written by {writer}, "
            f"which is gone.",
            repair,
        )


@contextlib.contextmanager
def _in_no_making(folder: Path, home: MdelHome) -> Iterator[bool]:
    """Whether nobody makes the artifact of a staging folder, nor begins to in this block."""
    place = final_place(folder)
    path = place if place.name.endswith(RECORD_NAME) else place / RECORD_NAME
    root = home.root / place.relative_to(home.root).parts[0]
    lock = (placed_at(path, root=root, kinds=KINDS) or unknown_artifact(path)).lock_path
    if not lock.exists():
        yield True
        return
    with unused(lock) as is_free:
        yield is_free


def examine_work(home: MdelHome, experiment: Experiment) -> Iterator[Finding]:
    """Look for work in progress that no run will go on with: of settings or inputs of before.

    What was written to in the last day may be of a run that is under way.
    """
    lineage = home.lineage(experiment)
    for folder in sorted((home.root / experiment.name / "work").glob("*-*")):
        match = _WORK_IN_PROGRESS.fullmatch(folder.name)
        if match is None or _is_wanted(lineage, match) or _is_recent(folder):
            continue

        def repair(folder: Path = folder, match: re.Match[str] = match) -> str:
            with making(*_maker_of(lineage, match)):
                if _is_wanted(lineage, match) or _is_recent(folder):
                    return "somebody goes on with it now"
                shutil.rmtree(folder)
            return f"removed {folder}"

        yield Finding(
            f"{folder} ({_size_mib(folder):.0f} MiB) is work in progress on something that has "
            f"other settings or inputs now: no run will go on with it.",
            repair,
        )


def _is_wanted(lineage: Lineage, match: re.Match[str]) -> bool:
    """Whether a run would go on with a work folder of that name; yes where that is not known."""
    kind, key = match["kind"], match["key"] or ""
    if kind not in lineage.registry:
        return False
    try:
        identity = lineage.identity(kind, key)
    except (MdelError, KeyError, ValueError):
        return True
    return match.string == lineage.artifact(kind, key).work_name(identity)


def _maker_of(lineage: Lineage, match: re.Match[str]) -> list[Artifact]:
    """Return the artifact that a work folder is of; none for one of a kind that is no more."""
    kind = match["kind"]
    return [lineage.artifact(kind, match["key"] or "")] if kind in lineage.registry else []


def _is_recent(folder: Path) -> bool:
    """Whether something in a folder was written to in the last day; also if it is just leaving."""
    try:
        newest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:
        return True
    return time.time() - newest < ELSEWHERE_SECONDS


def _size_mib(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20


def examine_records(
    home: MdelHome, experiment: Experiment, *, read_files: bool
) -> Iterator[Finding]:
    """Compare every artifact's files with its record; ``read_files`` reads them all once more."""
    lineage = home.lineage(experiment)
    root, kinds = lineage.root, lineage.registry.values()
    for path in record_paths(root):
        artifact, record, problem = _read(path, lineage, read_files=read_files)
        if not problem:
            continue

        # A record that cannot be read, at the place of no kind, does not say whose lock it is.
        known = placed_at(path, root=root, kinds=kinds) or (artifact if record else None)

        def repair(path: Path = path, known: Artifact | None = known) -> str:
            with making(*([known] if known else [])):
                artifact, record, problem = _read(path, lineage, read_files=read_files)
                if not (path.exists() and problem):
                    return "it was made anew, or taken away, meanwhile"
                return _move_aside(artifact, record, root / "work" / "damaged")

        yield Finding(f"{artifact.label}: {problem}. It has to be made anew.", repair)


def _read(path: Path, lineage: Lineage, *, read_files: bool) -> tuple[Artifact, Record | None, str]:
    """Return what a record is of, the record, and what is wrong with it or its files."""
    artifact = unknown_artifact(path, within=lineage)
    try:
        record = Record.parse(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        return artifact, None, f"its record {path} cannot be read ({error})"
    artifact = named_by(record, artifact, within=lineage)
    return artifact, record, artifact.damage(record, read_all=read_files) or ""


def _move_aside(artifact: Artifact, record: Record | None, folder: Path) -> str:
    """Move an artifact to where nothing looks for it, so that the next run makes it anew."""
    places = (folder / f"{artifact.kind}-{number}" for number in itertools.count())
    place = next(place for place in places if not place.exists())
    place.mkdir(parents=True)
    if artifact.owns_folder:
        os.replace(artifact.folder, place / artifact.folder.name)
    else:
        for name in [*(record.files if record else []), artifact.record_path.name]:
            if (artifact.folder / name).exists():
                os.replace(artifact.folder / name, place / name)
    return f"moved it to {place}; 'mdel run' makes it anew"


def examine_disk(home: MdelHome, experiment: Experiment) -> Iterator[Finding]:
    """Look whether the largest artifact could be made anew: the old one stays until then."""
    free = shutil.disk_usage(home.root).free
    sizes = [0]
    for path in (home.root / experiment.name).rglob(RECORD_NAME):
        # What cannot be read is a finding of examine_records.
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            files = json.loads(path.read_text("utf-8"))["files"]
            sizes.append(sum(file["size_bytes"] for file in files.values()))
    wanted = max(_LOW_DISK_BYTES, 2 * max(sizes))
    if free < wanted:
        yield Finding(
            f"{free / 2**30:.1f} GiB are free under {home.root}, at least {wanted / 2**30:.1f} GiB "
            f"are wanted to make the largest artifact anew. Free some space, or move MDEL_HOME to "
            f"another disk."
        )


def examine_network(
    home: MdelHome, experiment: Experiment, environment: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """Ask the Hub and W&B for a sign of life, where the experiment needs them."""
    hub = environment.get("HF_ENDPOINT", "https://huggingface.co")
    token = find_token()
    if _needs_hub(experiment) or token:
        asked = "/api/whoami-v2" if token else "/api/models?limit=1"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if problem := _problem_with(hub + asked, headers):
            yield Finding(
                f"The Hub at {hub} cannot be used ({problem}). Check the network and HF_TOKEN; "
                f"what was fetched before can be used without."
            )
    if tracking_mode() == "online":
        wandb = environment.get("WANDB_BASE_URL", "https://api.wandb.ai")
        if problem := _problem_with(wandb, {}):
            yield Finding(
                f"Weights & Biases at {wandb} cannot be reached ({problem}). Set "
                f"WANDB_MODE=offline to keep the curves under {home.root}, for 'wandb sync' later."
            )


def _needs_hub(experiment: Experiment) -> bool:
    source, seed = experiment.source, experiment.seed_model
    shards = [*source.train, source.validation or "", source.test or ""]
    named = experiment.place_of_model(seed.path or "")
    is_remote = bool(named) and "://" not in named and not Path(named).exists()
    return is_remote or any(place.startswith("hf://") for place in shards)


def _problem_with(url: str, headers: Mapping[str, str]) -> str:
    import httpx2

    try:
        status = httpx2.get(url, headers=dict(headers), timeout=_TIMEOUT_SECONDS).status_code
    except httpx2.HTTPError as error:
        return type(error).__name__
    if status in (401, 403):
        return f"it refuses the token: {status}"
    return f"it answers {status}" if status >= 500 else ""
