"""The same artifacts in Azure's and Google's storage: faults, two writers, and what is not there.

Azure's is Azurite, which Microsoft maintains for tests. There is no such server of Google's: its
requests go to an S3 server through a door that translates them, which shows what the client sends.
"""

import threading
from urllib.parse import unquote

import pytest

from mdel_assets.errors import ObjectStoreError
from mdel_assets.store.remote.client import Client, address_of
from mdel_assets.store.remote.unreferenced import remove_files, unreferenced_files
from mdel_assets_tests.blob_servers import AzureProxy, AzureServer, GoogleProxy, azurite
from mdel_assets_tests.store.remote.artifacts_in_store import (
    KEYS,
    SIZES,
    artifact_in,
    content_of,
    identity_of,
    make,
)


@pytest.fixture(scope="module")
def azure(tmp_path_factory):
    if azurite() is None:
        pytest.skip("Azurite is not installed: make test_services installs it where npm is")
    server = AzureServer(tmp_path_factory.mktemp("azurite"))
    yield server
    server.end()


@pytest.fixture(params=["az", "gs"])
def door(request, monkeypatch):
    """The door to a store that is empty: ``MDEL_STORE`` and what leads there is set."""
    server = request.getfixturevalue("azure" if request.param == "az" else "s3")
    door = (AzureProxy if request.param == "az" else GoogleProxy)(server)
    for key, value in door.environment.items():
        monkeypatch.setenv(key, value)
    yield door
    door.refused = door.cut = 0.0
    door.before = lambda method, path: None
    client = Client(address_of())
    client.delete([e.name for folder in ("files", "experiments") for e in client.list(folder)])
    door.end()


def test_another_home_fetches_what_was_pushed_though_every_fourth_request_fails(tmp_path, door):
    door.refused, door.cut = 0.2, 0.05
    records = {key: make(tmp_path / "one", key) for key in KEYS}
    for key, record in records.items():
        there = artifact_in(tmp_path / "other", key)
        assert there.require() == record
        for name in SIZES:
            assert (there.folder / name).read_bytes() == content_of(key, name)
    files = {f"files/xxh3-{f['xxh3']}" for r in records.values() for f in r.files.values()}
    store = artifact_in(tmp_path / "one", "a").remote.store
    assert {e.name for e in Client(address_of()).list("files")} == files
    assert len(Client(address_of()).list("experiments")) == len(KEYS)
    assert unreferenced_files(store, min_seconds=0.0) == []


def test_of_two_writers_of_one_artifact_the_first_stays_and_comes_to_the_other(tmp_path, door):
    records = {}
    for name in ("one", "other"):
        artifact = artifact_in(tmp_path / name, "a")
        with artifact.staging() as stage:
            (stage / "text.txt").write_text(f"by {name}")
            records[name] = artifact.publish(stage, identity_of("a"), making={"home": name})
    # Both look before either has pushed, and send their entries at the same time.
    both = threading.Barrier(2)
    waited = []

    def wait(method, path):
        if method == "PUT" and "record.json" in unquote(path) and len(waited) < 2:
            waited.append(path)
            both.wait()

    door.before = wait
    threads = [
        threading.Thread(target=lambda n=n, r=r: artifact_in(tmp_path / n, "a").push(r))
        for n, r in records.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(waited) == 2
    assert len(Client(address_of()).list("experiments")) == 1
    one, other = (artifact_in(tmp_path / name, "a").require() for name in records)
    assert one == other
    assert one in records.values()


def test_a_store_that_is_not_there_is_told(door, tmp_path):
    client = Client(address_of().replace("artifacts", "elsewhere"))
    path = tmp_path / "file"
    path.write_bytes(b"content")
    asked = [
        lambda: client.list("files"),
        lambda: client.create("files/a", b""),
        lambda: client.upload("files/a", path),
    ]
    for ask in asked:
        with pytest.raises(ObjectStoreError, match="elsewhere"):
            ask()


def test_removed_files_are_gone_and_removing_them_again_is_no_error(tmp_path, door):
    make(tmp_path / "one", "b")
    client, store = Client(address_of()), artifact_in(tmp_path / "one", "b").remote.store
    client.delete([e.name for e in client.list("experiments")])
    store.look_again()
    files = unreferenced_files(store, min_seconds=0.0)
    assert len(files) == len(SIZES)
    for _ in range(2):
        remove_files(store, files)
    assert client.list("files") == []
    assert client.read(files[0].name) is None
    assert client.size(files[0].name) is None
