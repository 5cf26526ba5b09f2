"""A local folder in the Hub's place: the same interface, revisions by content."""

import itertools
import json

import pytest

from mdel_assets.errors import ExperimentError, MissingArtifactError, PublishingError
from mdel_assets.hub.names import name_problem
from mdel_assets.publishing.backend import Changes, Repository
from mdel_assets.publishing.folder_backend import FolderBackend
from mdel_assets.publishing.publication import publish
from mdel_assets.publishing.publisher import make_publisher
from mdel_assets.publishing.steps import publish_dataset, publish_expert
from mdel_assets_tests.conftest import pico_experiment
from mdel_assets_tests.publishing.clients import run_python, snippet_of
from mdel_assets_tests.publishing.conftest import QUICK, with_hub

REPO = Repository("model", "local/model")


def put(backend, files):
    """Publish files with a record of them, as every publication has one."""
    record = {"kind": "expert_model", "key": "arxiv", "experiment": "pico"}
    files = files | {"record.json": json.dumps(record | {"files": dict.fromkeys(files)}).encode()}
    return publish(backend, REPO, files, message="x", private=True, retries=QUICK)


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
    assert {path.name for path in main.iterdir()} == {"config.json", "record.json"}
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


@pytest.mark.in_use
@pytest.mark.parametrize(
    "name",
    [
        "../../evil",
        "../evil/model",
        "local/..",
        "local/a/b",
        "local",
        "local/-model",
        "local/model.",
        "local/a--b",
        "local/a..b",
        "local/model.git",
        "local/größe",
        "local/" + "a" * 97,
    ],
)
def test_a_name_that_the_hub_refuses_is_refused_everywhere(name):
    with pytest.raises(PublishingError, match="A repository is called OWNER/NAME"):
        Repository("model", name)


@pytest.mark.in_use
def test_names_that_the_hub_takes_are_taken():
    """As many as its own check takes, and no others: `validate_repo_id`."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    alphabet = "aZ0_-."
    for length in (1, 2, 3, 4):
        for letters in itertools.product(alphabet, repeat=length):
            name = "".join(letters)
            try:
                validate_repo_id(f"owner/{name}")
                is_taken = True
            except HFValidationError:
                is_taken = False
            assert (name_problem(name) is None) == is_taken, name
    assert name_problem("x" * 96) is None


@pytest.mark.in_use
@pytest.mark.parametrize(
    "settings", [{"namespace": "../../evil"}, {"expert_name": "..{domain}"}, {"namespace": ""}]
)
def test_an_experiment_cannot_publish_outside_of_its_folder(corpus, settings):
    with pytest.raises(ExperimentError, match="is not allowed as a name on the Hub"):
        pico_experiment(corpus, hub={"endpoint": "file:shelf", **settings})


def test_models_are_published_with_the_report_where_that_is_asked(finished, own_home, tmp_path):
    def publish_to_shelf(**settings):
        experiment = with_hub(finished[0], endpoint=f"file:{tmp_path / 'shelf'}", **settings)
        lineage, publisher = (
            own_home.lineage(experiment),
            make_publisher(experiment, environment={}),
        )
        publish_dataset(lineage, "arxiv", publisher=publisher)
        done = publish_expert(lineage, "arxiv", publisher=publisher)
        (state,) = (tmp_path / "shelf" / "models" / "local").glob("expert-arxiv/main")
        return done.record, state / "experiment_report.html", lineage

    record, page, lineage = publish_to_shelf()
    assert not page.exists()
    assert "experiment_report" not in record.inputs
    record, page, lineage = publish_to_shelf(report=True)
    report = lineage.artifact("experiment_report")
    assert page.read_bytes() == (report.folder / "report.html").read_bytes()
    # Of the text of any domain in the page, so that forgetting the domain finds the repository.
    assert record.inputs["experiment_report"] == report.require().fingerprint
    assert not list((tmp_path / "shelf" / "datasets").rglob("experiment_report.html"))
    assert not publish_to_shelf()[1].exists()
    report.remove()
    with pytest.raises(MissingArtifactError, match="experiment_report is missing"):
        publish_to_shelf(report=True)


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


@pytest.mark.in_use
def test_a_report_that_is_marked_as_forgotten_is_not_published(finished, own_home, tmp_path):
    experiment = with_hub(finished[0], endpoint=f"file:{tmp_path / 'shelf'}", report=True)
    lineage, publisher = own_home.lineage(experiment), make_publisher(experiment, environment={})
    marked = {lineage.artifact("experiment_report").require().fingerprint: "of 'arxiv'"}
    lineage.forgotten.write_text(json.dumps(marked))
    with pytest.raises(PublishingError, match="experiment_report is marked as forgotten"):
        publish_expert(lineage, "github", publisher=publisher)
    assert not (tmp_path / "shelf" / "models").exists()
    publish_dataset(lineage, "github", publisher=publisher)
