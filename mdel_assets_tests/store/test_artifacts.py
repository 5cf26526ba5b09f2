"""Artifacts exist whole or not at all, and say what they are."""

import dataclasses
import json
import os
import resource
import signal
import sys

import pytest

from mdel_assets.errors import (
    DamagedArtifactError,
    DiskFullError,
    ForeignArtifactError,
    MissingArtifactError,
)
from mdel_assets.store.artifacts import RECORD_NAME, Artifact
from mdel_assets.store.digests import file_digest
from mdel_assets.store.records import Identity


def identity(**changes):
    base = Identity(
        kind="domain_dataset",
        key="arxiv",
        experiment="e",
        code_version="1",
        config={"a": 1},
        inputs={"x": "f"},
    )
    return dataclasses.replace(base, **changes)


def publish(artifact, text="hello", **changes):
    with artifact.staging() as stage:
        (stage / "train.parquet").write_text(text)
        return artifact.publish(stage, identity(**changes), counts={"n": 1})


def dataset_of(root, *, experiment="e"):
    """Return the place of a dataset under ``root``."""
    folder = root / "datasets" / "arxiv"
    return Artifact(
        "domain_dataset",
        "arxiv",
        experiment,
        folder,
        folder / RECORD_NAME,
        remedy="run 'mdel dg launch --assets domain_dataset --partition arxiv', or 'mdel run'",
        work=root / "work",
    )


@pytest.fixture
def artifact(tmp_path):
    return dataset_of(tmp_path)


def test_a_published_artifact_is_read_back(artifact):
    record = publish(artifact)
    assert artifact.require() == record
    assert record.files["train.parquet"] == {
        "size_bytes": 5,
        "xxh3": file_digest(artifact.folder / "train.parquet"),
    }
    assert artifact.holds(identity().fingerprint) == record
    assert artifact.holds("another") is None


def test_publishing_the_same_twice_gives_the_same_bytes(artifact):
    publish(artifact)
    first = artifact.record_path.read_bytes()
    publish(artifact)
    assert artifact.record_path.read_bytes() == first


def test_fingerprint_changes_with_config_inputs_and_code_only(artifact):
    base = identity().fingerprint
    assert identity(config={"a": 2}).fingerprint != base
    assert identity(inputs={"x": "g"}).fingerprint != base
    assert identity(code_version="2").fingerprint != base
    assert identity(config={"a": 1}).fingerprint == base


def test_a_failure_leaves_the_old_artifact_and_no_trace(artifact):
    publish(artifact, "old")
    with pytest.raises(RuntimeError), artifact.staging() as stage:
        (stage / "train.parquet").write_text("half")
        raise RuntimeError
    assert (artifact.folder / "train.parquet").read_text() == "old"
    assert [p.name for p in artifact.folder.parent.iterdir()] == ["arxiv"]


def test_replacing_takes_the_old_content_away(artifact):
    publish(artifact, "old")
    (artifact.folder / "stray").write_text("x")
    publish(artifact, "new")
    assert sorted(p.name for p in artifact.folder.iterdir()) == ["record.json", "train.parquet"]
    assert [p.name for p in artifact.folder.parent.iterdir()] == ["arxiv"]


@pytest.mark.parametrize("num_removed", [0, 3, 9])
def test_what_a_kill_leaves_of_an_artifact_that_is_being_removed_has_its_record(
    artifact, tmp_path, num_removed
):
    """A child process ends before it removes one file more than ``num_removed``."""
    order = tmp_path / "order"
    order.mkdir()
    for number in range(9):
        (order / f"{number}.json").touch()
    # The record has the name that the file system lists first.
    first, *others = (path.name for path in order.iterdir())
    artifact = dataclasses.replace(artifact, record_path=artifact.folder / first)
    with artifact.staging() as stage:
        (stage / "adapter").mkdir()
        for name in (*others, "adapter/weights.bin"):
            (stage / name).write_text("hello")
        record = artifact.publish(stage, identity())
    child = os.fork()
    if child == 0:
        left = iter(range(num_removed))
        sys.addaudithook(
            lambda event, _: event == "os.remove" and next(left, None) is None and os._exit(0)
        )
        artifact.remove()
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    files = [path for path in artifact.folder.rglob("*") if path.is_file()]
    assert len(files) == 10 - num_removed
    assert artifact.read_record() == record
    artifact.remove()
    assert not artifact.folder.exists()


def test_missing_artifact_names_the_command_that_makes_it(artifact):
    with pytest.raises(MissingArtifactError, match="--assets domain_dataset --partition arxiv"):
        artifact.require()


def test_folder_of_another_experiment_is_refused(artifact, tmp_path):
    publish(artifact)
    other = dataset_of(tmp_path, experiment="other")
    with pytest.raises(ForeignArtifactError, match="experiment 'e', expected"):
        other.require()


def test_a_changed_file_is_noticed(artifact):
    record = publish(artifact)
    (artifact.folder / "train.parquet").write_text("hullo")
    assert "digest" in artifact.damage(record)
    (artifact.folder / "train.parquet").write_text("longer than before")
    with pytest.raises(DamagedArtifactError, match="18 bytes, its record says 5"):
        artifact.require()


def test_a_record_that_is_no_record_is_refused(artifact):
    publish(artifact)
    artifact.record_path.write_text(json.dumps({"kind": "x"}))
    with pytest.raises(DamagedArtifactError, match="is not a record"):
        artifact.require()


def test_a_full_disk_is_explained_and_leaves_nothing(artifact):
    """A child process whose files may not grow past 1 MB meets the kernel's own refusal."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        try:
            publish(artifact, "x" * 2_000_000)
        except DiskFullError as error:
            os._exit(0 if "Free some space, or move MDEL_HOME" in str(error) else 2)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert list(artifact.folder.parent.iterdir()) == []
