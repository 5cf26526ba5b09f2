"""Files that do not hold what was recorded are named at their next use; others are read once."""

import hashlib
import os
import shutil

import pytest
import xxhash

from mdel_assets.errors import DamagedArtifactError
from mdel_assets.home import MdelHome
from mdel_assets.line.making import current_record, make_one
from mdel_assets.merging.members import folder_digest
from mdel_assets.store.digests import file_digest
from mdel_assets_tests.conftest import flip_bit
from mdel_assets_tests.store.test_artifacts import dataset_of, identity

pytestmark = pytest.mark.in_use


@pytest.fixture
def artifact(tmp_path):
    """A dataset of two files that were written some time ago."""
    artifact = dataset_of(tmp_path)
    with artifact.staging() as stage:
        for name in ("train.parquet", "validation_domain.parquet"):
            (stage / name).write_bytes(bytes(range(256)))
            os.utime(stage / name, ns=(0, 0))
        artifact.publish(stage, identity(), details={"weights": {2: 0.25, 10: 0.75}})
    return artifact


def flip_unnoticed(path):
    """Flip a bit as a disk does: the file's time of change stays."""
    before = path.stat()
    flip_bit(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_flipped_bit_is_named_with_the_remedy(artifact):
    path = artifact.folder / "validation_domain.parquet"
    flip_bit(path)
    with pytest.raises(DamagedArtifactError) as raised:
        artifact.require()
    assert f"domain_dataset 'arxiv' is damaged: {path} has digest" in str(raised.value)
    assert "--assets domain_dataset --partition arxiv" in str(raised.value)
    # It is known as damaged until it is made anew, or what it held is put back.
    assert artifact.holds(identity().fingerprint) is None
    flip_bit(path)
    assert artifact.holds(identity().fingerprint)


def test_a_model_of_somebody_elses_is_read_once_while_it_stays(tmp_path):
    folder, notes = tmp_path / "model", tmp_path / "verified"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(bytes(range(256)))
        os.utime(folder / name, ns=(0, 0))
    unnoted = folder_digest(folder)
    first = folder_digest(folder, notes=notes)
    assert first == unnoted
    assert first == f"folder:{'-'.join(2 * [file_digest(folder / 'config.json')[:16]])}"
    flip_unnoticed(folder / "config.json")
    assert folder_digest(folder, notes=notes) == first
    flip_bit(folder / "model.safetensors")
    config, weights = folder_digest(folder, notes=notes).split("-")
    assert config == first.partition("-")[0]
    assert weights not in first
    flip_bit(folder / "model.safetensors")
    assert folder_digest(folder, notes=notes) == first


def test_both_digests_of_a_raw_shard_are_those_of_its_file(lineage, home):
    """They are found in one reading."""
    record = make_one(lineage, "raw_pile_shard", "00")
    (path,) = lineage.folder("raw_pile_shard", "00").glob("*.zst")
    assert record.files[path.name]["xxh3"] == xxhash.xxh3_128_hexdigest(path.read_bytes())
    assert record.config["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_read_once_while_its_size_inode_and_time_of_change_stay(artifact):
    path = artifact.folder / "train.parquet"
    record = artifact.require()
    flip_unnoticed(path)
    assert artifact.damage(record) is None
    assert "train.parquet has digest" in artifact.damage(record, read_all=True)
    # Reading all notes what was found, and a copy is another file.
    assert "train.parquet has digest" in artifact.damage(record)
    flip_unnoticed(path)
    assert artifact.damage(record) is None
    shutil.copy2(path, path.with_suffix(".copy"))
    flip_unnoticed(path.with_suffix(".copy"))
    os.replace(path.with_suffix(".copy"), path)
    assert "train.parquet has digest" in artifact.damage(record)


def test_files_that_nobody_noted_are_read(artifact):
    flip_unnoticed(artifact.folder / "train.parquet")
    shutil.rmtree(artifact.work / "verified")
    with pytest.raises(DamagedArtifactError, match=r"train\.parquet has digest"):
        artifact.require()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"train.parquet": 3}', '{"train.parquet": {}}']
)
def test_notes_that_are_none_do_no_harm(artifact, content):
    (note,) = (artifact.work / "verified").iterdir()
    note.write_text(content)
    assert artifact.require()
    flip_bit(artifact.folder / "train.parquet")
    with pytest.raises(DamagedArtifactError):
        artifact.require()


def test_where_notes_cannot_be_written_files_are_read_each_time(artifact):
    shutil.rmtree(artifact.work)
    artifact.work.write_text("no folder can be made here")
    assert artifact.require()
    flip_unnoticed(artifact.folder / "train.parquet")
    with pytest.raises(DamagedArtifactError):
        artifact.require()


def test_a_file_changed_in_the_moment_of_its_reading_is_read_again(artifact):
    """A file system's clock ticks slowly: the second change has the time of the first."""
    path = artifact.folder / "train.parquet"
    os.utime(path)
    now = path.stat().st_mtime_ns
    assert artifact.require()
    flip_bit(path)
    os.utime(path, ns=(now, now))
    with pytest.raises(DamagedArtifactError):
        artifact.require()


def test_any_flipped_bit_of_a_record_is_found(artifact):
    content = artifact.record_path.read_bytes()
    for place in range(0, len(content), 3):
        flip_bit(artifact.record_path, place=place, bit=place % 8)
        with pytest.raises(DamagedArtifactError, match=r"record\.json is not a record"):
            artifact.require()
        artifact.record_path.write_bytes(content)
    assert artifact.require()


def test_a_record_without_a_seal_is_read(artifact):
    lines = artifact.record_path.read_text().splitlines(keepends=True)
    artifact.record_path.write_text("".join(line for line in lines if '"seal"' not in line))
    assert artifact.require().details == {"weights": {"2": 0.25, "10": 0.75}}


@pytest.fixture(scope="module")
def line(finished, tmp_path_factory):
    """A copy of the finished line."""
    experiment, home, _ = finished
    copy = tmp_path_factory.mktemp("verification") / "home"
    shutil.copytree(home.root, copy)
    return MdelHome(copy).lineage(experiment)


def test_a_flipped_bit_in_any_kind_of_artifact_is_named_where_it_is_read(line):
    """One artifact of each kind, its largest file and its record, and everything made from it."""
    places = [(kind, key) for kind, keys in line.walk() for key in keys]
    inputs = {place: line.inputs(*place) for place in places if place[0] != "raw_pile_shard"}
    tried = {}
    for kind, key in places:
        artifact = line.artifact(kind, key)
        users = [place for place, read in inputs.items() if artifact in read]
        if kind in tried and not users:
            continue
        record = artifact.require()
        name = max(record.files, key=lambda file: record.files[file]["size_bytes"])
        for path in (artifact.folder / name, artifact.record_path):
            flip_bit(path)
            assert not _is_current(line, kind, key), path
            for user in users:
                with pytest.raises(DamagedArtifactError) as raised:
                    line.identity(*user)
                assert str(path) in str(raised.value)
                assert f"--assets {kind}" in str(raised.value)
            flip_bit(path)
        assert _is_current(line, kind, key)
        tried[kind] = users
    assert tried.keys() == set(line.kinds())
    unread = [kind for kind, users in tried.items() if not users]
    assert unread == ["experiment_report"]


def _is_current(line, kind, key):
    try:
        return line.current(kind, key) is not None
    except DamagedArtifactError:
        return False


def test_nothing_is_merged_from_damaged_weights(line, caplog):
    merged = line.artifact("merged_model", "mean-all")
    before = merged.require()
    shutil.rmtree(merged.folder)
    weights = line.folder("expert_model", "github") / "model.safetensors"
    flip_bit(weights)
    with pytest.raises(DamagedArtifactError) as raised:
        make_one(line, "merged_model", "mean-all")
    assert str(weights) in str(raised.value)
    assert not merged.folder.exists()
    # What is damaged is what a run makes anew, first of all, and its step says why.
    assert str(weights) in line.stale("expert_model", "github").reason
    assert current_record(line, "expert_model", "github") is None
    assert f"damaged and made anew: {weights}" in caplog.text
    flip_bit(weights)
    assert make_one(line, "merged_model", "mean-all").files == before.files
