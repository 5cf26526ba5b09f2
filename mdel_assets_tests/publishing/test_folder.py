"""A local folder in the Hub's place: the same interface, revisions by content."""

import pytest

from mdel_assets.errors import PublishingError
from mdel_assets.publishing.backend import Changes, Repository
from mdel_assets.publishing.folder_backend import FolderBackend
from mdel_assets.publishing.publication import publish
from mdel_assets.publishing.publisher import make_publisher
from mdel_assets.steps_publishing import publish_dataset, publish_expert
from mdel_assets_tests.publishing.clients import run_python, snippet_of
from mdel_assets_tests.publishing.conftest import QUICK, with_hub

REPO = Repository("model", "local/model")


def put(backend, files):
    return publish(backend, REPO, files, message="x", private=True, patience=QUICK)


def test_a_revision_is_named_by_what_it_holds(tmp_path):
    first, second = (FolderBackend(f"file:{tmp_path / name}") for name in ("a", "b"))
    files = {"config.json": b"{}", "deep/er.txt": b"x"}
    one, other = put(first, files), put(second, files)
    assert one.revision == other.revision
    assert one.is_new
    assert not put(first, files).is_new
    changed = put(first, {"config.json": b"[]"})
    assert changed.revision != one.revision
    main = tmp_path / "a" / "models" / "local" / "model" / "main"
    assert [path.name for path in main.iterdir()] == ["config.json"]
    assert (main.parent / one.revision / "deep" / "er.txt").read_bytes() == b"x"
    assert put(first, files).revision == one.revision
    assert (main / "config.json").read_bytes() == b"{}"


def test_a_commit_that_fails_leaves_what_was_there(tmp_path):
    backend = FolderBackend(f"file://{tmp_path}")
    before = put(backend, {"config.json": b"{}"})
    with pytest.raises(FileNotFoundError):
        backend.commit(
            REPO,
            Changes({"a.txt": b"a", "b.txt": tmp_path / "nowhere"}),
            message="x",
            parent=backend.state(REPO),
        )
    assert backend.state(REPO).revision == before.revision
    folder = tmp_path / "models" / "local" / "model"
    assert {path.name for path in folder.iterdir()} == {before.revision, "main", ".lock"}


def test_a_repository_that_moved_on_is_not_overwritten(tmp_path):
    backend = FolderBackend(f"file:{tmp_path}")
    put(backend, {"config.json": b"{}"})
    seen = backend.state(REPO)
    put(backend, {"config.json": b"[]"})
    with pytest.raises(PublishingError, match="changed by another process"):
        backend.commit(REPO, Changes({"a.txt": b"a"}), message="x", parent=seen)
    with pytest.raises(PublishingError, match="without a folder"):
        FolderBackend("file:")


@pytest.mark.slow
def test_a_line_is_published_to_a_folder_without_a_token_and_loads_from_there(
    finished, own_home, tmp_path
):
    experiment = with_hub(finished[0], endpoint=f"file:{tmp_path / 'shelf'}")
    lineage = own_home.lineage(experiment)
    publisher = make_publisher(experiment, environment={})
    done = publish_dataset(lineage, "arxiv", publisher=publisher)
    again = publish_dataset(lineage, "arxiv", publisher=publisher)
    assert done == again
    publish_expert(lineage, "arxiv", publisher=publisher)
    for place in ("datasets/local/arxiv/main", "models/local/expert-arxiv/main"):
        card = (tmp_path / "shelf" / place / "README.md").read_text()
        assert place in snippet_of(card)
        environment = {"PATH": "/usr/bin", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
        assert run_python(snippet_of(card), environment, cwd=tmp_path / "shelf").strip()
