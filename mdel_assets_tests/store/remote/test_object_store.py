"""A store of artifacts: two writers, what is wrong in it, what is of no use, and what it costs."""

import json
import subprocess
import sys
import threading

import pytest

from mdel_assets.errors import DamagedArtifactError, ExperimentError, ObjectStoreError
from mdel_assets.store.remote.client import checked_address
from mdel_assets.store.remote.entries import Entry
from mdel_assets.store.remote.object_store import ObjectStore
from mdel_assets.store.remote.unreferenced import remove_files, superseded, unreferenced_files
from mdel_assets_tests.store.remote.artifacts_in_store import (
    SIZES,
    artifact_in,
    content_of,
    identity_of,
    make,
)


def written(home, key="a", **texts):
    """Publish an artifact of one's own content in a home, without pushing it; return its record."""
    artifact = artifact_in(home, key)
    with artifact.staging() as stage:
        for name, text in texts.items():
            (stage / f"{name}.txt").write_text(text)
        return artifact.publish(stage, identity_of(key), making={"home": home.name})


def test_of_two_writers_of_one_artifact_the_first_stays_in_the_store_and_comes_to_the_other(
    tmp_path, proxy, s3
):
    """They made the same with other bytes, as two GPUs may."""
    homes = [tmp_path / "one", tmp_path / "other"]
    records = [written(home, text=f"by {home.name}") for home in homes]
    # Both look before either has pushed, and send their entries at the same time.
    both = threading.Barrier(2)
    proxy.before = lambda method, path: both.wait() if "record.json" in path else None
    threads = [
        threading.Thread(target=lambda h=home, r=record: artifact_in(h, "a").push(r))
        for home, record in zip(homes, records, strict=True)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(timeout=0.05)
        if both.n_waiting == 1 and proxy.num_asked("PUT", "record.json") == 2:
            # Whoever was second reads what the first has written.
            both.abort()
            proxy.before = lambda method, path: None
    (name,) = s3.names("shared/experiments/")
    entry = Entry.parse(s3.content(name))
    assert entry.record in records
    for home in homes:
        artifact = artifact_in(home, "a")
        assert artifact.require() == entry.record
        assert (artifact.folder / "text.txt").read_text() == f"by {entry.making['home']}"
        assert json.loads((artifact.folder / "making.json").read_text()) == entry.making


def test_what_was_removed_and_made_again_is_seen_as_it_is_now(tmp_path, proxy):
    """The fingerprint is the same, and the bytes are others, as those of another GPU."""
    here, there = artifact_in(tmp_path / "one", "a"), artifact_in(tmp_path / "other", "a")
    first = here.push(written(tmp_path / "one", text="first"))
    assert there.read_record() == first
    here.remote.remove(first.fingerprint)
    second = here.push(written(tmp_path / "one", text="other"))
    assert second.fingerprint == first.fingerprint
    there.remote.store.look_again()
    assert there.read_record() == second
    (left,) = unreferenced_files(there.remote.store, min_seconds=0.0)
    assert left.name == f"files/xxh3-{first.files['text.txt']['xxh3']}"
    there.require()
    assert (there.folder / "text.txt").read_text() == "other"


def test_whoever_misses_the_files_of_what_was_made_again_meanwhile_removes_nothing(
    tmp_path, proxy, s3
):
    here, there = artifact_in(tmp_path / "one", "a"), artifact_in(tmp_path / "other", "a")
    first = here.push(written(tmp_path / "one", text="first"))
    assert there.read_record() == first
    here.remote.remove(first.fingerprint)
    s3.delete(f"shared/files/xxh3-{first.files['text.txt']['xxh3']}")
    second = here.push(written(tmp_path / "one", text="other"))
    with pytest.raises(DamagedArtifactError, match="made anew meanwhile"):
        there.require()
    assert there.require() == second


def test_a_file_that_the_store_has_is_not_sent_again(tmp_path, proxy, s3):
    make(tmp_path / "one", "b")
    assert len(s3.names("shared/files/")) == len(SIZES)
    proxy.asked.clear()
    make(tmp_path / "one", "c")  # Its largest file is that of "b".
    assert proxy.num_asked("POST", "/files/") == 0
    assert proxy.num_asked("PUT", "/files/") == len(SIZES) - 1


def test_a_fetch_that_was_cut_off_goes_on_where_it_was(tmp_path, proxy):
    record = make(tmp_path / "one", "a")
    there = artifact_in(tmp_path / "other", "a")
    digest = record.files["weights.bin"]["xxh3"]
    partial = there.remote.store._cache / "partial"
    partial.mkdir(parents=True)
    begin = SIZES["weights.bin"] - 5
    (partial / digest).write_bytes(content_of("a", "weights.bin")[:begin])
    there.require()
    assert (there.folder / "weights.bin").read_bytes() == content_of("a", "weights.bin")
    assert [r for path, r in proxy.ranges if digest in path and r] == [f"bytes={begin}-{begin + 4}"]


@pytest.mark.parametrize("is_missing", [True, False])
def test_what_the_store_does_not_hold_as_recorded_is_made_anew(tmp_path, proxy, s3, is_missing):
    record = make(tmp_path / "one", "a")
    name = f"shared/files/xxh3-{record.files['config.json']['xxh3']}"
    s3.delete(name) if is_missing else s3.replace(name, b"x" * SIZES["config.json"])
    there = artifact_in(tmp_path / "other", "a")
    with pytest.raises(DamagedArtifactError, match="taken out of the store"):
        there.require()
    assert not there.folder.exists()
    assert not there.is_made()
    # The machine that has it sends it once more, with the file.
    here = artifact_in(tmp_path / "one", "a")
    here.remote.store.look_again()
    assert here.remote.find(record.fingerprint) is None
    here.push(record)
    there.remote.store.look_again()
    there.require()
    assert (there.folder / "config.json").read_bytes() == content_of("a", "config.json")


def test_a_damaged_file_here_is_fetched_and_the_whole_ones_stay(tmp_path, proxy):
    make(tmp_path / "one", "a")
    here = artifact_in(tmp_path / "one", "a")
    (here.folder / "config.json").write_bytes(b"?" * SIZES["config.json"])
    proxy.asked.clear()
    here.require()
    assert (here.folder / "config.json").read_bytes() == content_of("a", "config.json")
    assert proxy.num_asked("GET", "/files/") == 1


def test_what_failed_its_check_leaves_the_store(tmp_path, proxy):
    record = make(tmp_path / "one", "a")
    artifact_in(tmp_path / "one", "a").bar("is_sound")
    assert not artifact_in(tmp_path / "other", "a").is_made()
    assert artifact_in(tmp_path / "one", "a").holds(record.fingerprint) is None


def test_older_versions_and_files_of_no_artifact_are_found_and_removed(tmp_path, proxy, s3):
    old = make(tmp_path / "one", "a", version="1")
    new = make(tmp_path / "one", "a", version="2")
    store = artifact_in(tmp_path / "one", "a").remote.store
    assert [(v.place, v.fingerprint) for v in superseded(store, "tried")] == [
        ("tried/models/a/record.json", old.fingerprint)
    ]
    assert unreferenced_files(store, min_seconds=0.0) == []
    store.remove("tried/models/a/record.json", [old.fingerprint])
    # They are young: a push that is under way may be theirs.
    assert unreferenced_files(store) == []
    files = unreferenced_files(store, min_seconds=0.0)
    assert {f.name for f in files} == {f"files/xxh3-{f['xxh3']}" for f in old.files.values()}
    remove_files(store, files)
    left = {f"shared/files/xxh3-{f['xxh3']}" for f in new.files.values()}
    assert set(s3.names("shared/files/")) == left
    assert artifact_in(tmp_path / "other", "a").require() == new


def test_the_version_that_is_wanted_is_told_from_the_newest(tmp_path, proxy):
    old = make(tmp_path / "one", "a", version="1")
    make(tmp_path / "two", "a", version="2")
    there = artifact_in(tmp_path / "three", "a")
    assert there.holds(old.fingerprint) == old
    there.bring(old)
    assert (there.folder / "config.json").read_bytes() == content_of("a", "config.json")


def test_no_credential_reaches_an_error_an_entry_or_a_file(tmp_path, proxy, s3):
    make(tmp_path / "one", "a")
    proxy.refused, proxy.refusal = 1.0, 403
    with pytest.raises(ObjectStoreError, match="run the same command again") as failure:
        artifact_in(tmp_path / "other", "a").require()
    assert "of-the-tests" not in str(failure.value)
    assert "Debug source" not in str(failure.value)
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    sent = [s3.content(name) for name in s3.names("shared/experiments/")]
    assert not any(b"of-the-tests" in content for content in [*kept, *sent])


@pytest.mark.parametrize(
    "address",
    [
        "bucket/prefix",
        "ftp://host/x",
        "s3://",
        "s3://key:secret@bucket",
        "az://container?sig=secret",
    ],
)
def test_an_address_that_is_none_or_holds_a_credential_is_refused(address):
    with pytest.raises(ExperimentError, match="MDEL_STORE") as refusal:
        checked_address(address)
    assert "secret" not in str(refusal.value)


def test_without_a_store_its_library_is_not_imported():
    code = (
        "import sys\nfrom mdel_assets.definitions import defs\ndefs()\n"
        "print('obstore' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_store_goes_to_another_process_as_its_address(tmp_path):
    import pickle

    store = ObjectStore("s3://bucket/prefix", tmp_path)
    again = pickle.loads(pickle.dumps(store))
    assert again.address == "s3://bucket/prefix"
