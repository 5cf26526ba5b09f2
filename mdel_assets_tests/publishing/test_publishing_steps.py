"""Publishing the finished line of the pico experiment, step by step."""

import json
import logging
import shutil

import pytest
from huggingface_hub import HfApi

from mdel_assets.errors import MissingTokenError, PublishingError, RestrictedDataError
from mdel_assets.generation.samples_markdown import escaped
from mdel_assets.generation.steps import read_samples
from mdel_assets.publishing.card_texts import texts_section
from mdel_assets.publishing.publisher import make_publisher
from mdel_assets.publishing.steps import publish_dataset, publish_expert, publish_merged
from mdel_assets.store.digests import file_digest
from mdel_assets_tests.conftest import PICO, forge, pico_experiment
from mdel_assets_tests.publishing.conftest import (
    OWNER,
    QUICK,
    READER,
    TOKEN,
    publisher_to,
    with_hub,
)
from mdel_assets_tests.publishing.hub_faults import CUT_ANSWER, Fault


@pytest.fixture
def line(finished, own_home):
    """A finished line that a test may change: (experiment, lineage)."""
    return finished[0], own_home.lineage(finished[0])


def test_everything_arrives_whole_in_one_commit_each(line, hub):
    experiment, lineage = line
    publisher = publisher_to(hub, experiment)
    done = [
        publish_dataset(lineage, "arxiv", publisher=publisher),
        publish_expert(lineage, "arxiv", publisher=publisher),
        publish_merged(lineage, "pair", publisher=publisher),
    ]
    places = [
        ("datasets", "arxiv", lineage.artifact("domain_dataset", "arxiv")),
        ("models", "expert-arxiv", lineage.artifact("expert_model", "arxiv")),
        ("models", "pair", lineage.artifact("merged_model", "pair")),
    ]
    for (kind, name, artifact), outcome in zip(places, done, strict=True):
        repo = f"{OWNER}/{name}"
        assert hub.commits(kind, repo) == [f"{artifact.label} of experiment pico"]
        held = hub.state.read(kind, repo)
        for file in artifact.require().files:
            if file not in ("README.md", "mergekit_config.yml"):
                assert held[file] == (artifact.folder / file).read_bytes()
        # Places on the disk that it was published from lead nowhere.
        assert b"](.." not in held["README.md"]
        assert json.loads(held["record.json"])["fingerprint"] == artifact.require().fingerprint
        head = hub.state.repository(kind, repo).resolve("main")
        assert outcome.record.details["revision"] == head
        assert hub.state.repository(kind, repo).settings()["private"]
    written = json.loads(lineage.artifact("hub_expert", "arxiv").record_path.read_text())
    assert written["details"]["repository"] == f"{OWNER}/expert-arxiv"


def test_the_same_thing_again_makes_no_commit_whatever_the_record_says(line, hub):
    experiment, lineage = line
    publisher = publisher_to(hub, experiment)
    first = publish_expert(lineage, "arxiv", publisher=publisher)
    assert publish_expert(lineage, "arxiv", publisher=publisher) == first
    shutil.rmtree(lineage.folder("hub_expert", "arxiv"))
    again = publish_expert(lineage, "arxiv", publisher=publisher)
    assert again.record.details["revision"] == first.record.details["revision"]
    assert not again.record.details["made_commit"]
    assert len(hub.commits("models", f"{OWNER}/expert-arxiv")) == 1


@pytest.mark.in_use
def test_what_someone_else_changed_is_put_right_and_what_they_added_stays(line, hub):
    experiment, lineage = line
    publisher = publisher_to(hub, experiment)
    publish_expert(lineage, "arxiv", publisher=publisher)
    repo = f"{OWNER}/expert-arxiv"
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    before = hub.state.read("models", repo)
    theirs = {"LICENSE": b"terms", "gguf/model.gguf": b"quantized", "notes.md": b"read me"}
    for name, content in {"config.json": b"{}", **theirs}.items():
        api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id=repo)
    plan = publish_expert(
        lineage, "arxiv", publisher=publisher_to(hub, experiment, dry_run=True)
    ).plan
    assert "  leave  notes.md  (no publication created it)" in plan
    publish_expert(lineage, "arxiv", publisher=publisher)
    assert hub.state.read("models", repo) == {**before, **theirs}


@pytest.mark.in_use
def test_files_of_an_earlier_publication_that_are_gone_are_deleted(line, hub):
    """Its record in the repository says which those are, whatever is recorded here."""
    experiment, lineage = line
    publisher = publisher_to(hub, experiment)
    artifact = lineage.artifact("expert_model", "arxiv")
    files = artifact.require().files
    old = artifact.folder / "vocab.txt"
    old.write_bytes(b"old")
    forge(artifact, files=files | {"vocab.txt": {"size_bytes": 3, "xxh3": file_digest(old)}})
    publish_expert(lineage, "arxiv", publisher=publisher)
    assert hub.state.read("models", f"{OWNER}/expert-arxiv")["vocab.txt"] == b"old"
    forge(artifact, files=files, fingerprint="f" * 32)
    shutil.rmtree(lineage.folder("hub_expert", "arxiv"))
    publish_expert(lineage, "arxiv", publisher=publisher)
    assert "vocab.txt" not in hub.state.read("models", f"{OWNER}/expert-arxiv")


@pytest.mark.in_use
def test_what_no_publication_put_there_is_not_replaced(line, hub):
    experiment, lineage = line
    publisher = publisher_to(hub, experiment)
    repo = f"{OWNER}/expert-arxiv"
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    api.create_repo(repo)
    api.upload_file(
        path_or_fileobj=b"---\nlicense: mit\n---\n# Mine", path_in_repo="README.md", repo_id=repo
    )
    before = hub.state.read("models", repo)
    with pytest.raises(
        PublishingError, match=r"publication created: README\.md\. Name another repository"
    ):
        publish_expert(lineage, "arxiv", publisher=publisher)
    assert hub.state.read("models", repo) == before


@pytest.mark.in_use
def test_a_publication_of_something_else_is_not_replaced(line, hub):
    experiment, lineage = line
    publish_expert(lineage, "arxiv", publisher=publisher_to(hub, experiment))
    before = hub.state.read("models", f"{OWNER}/expert-arxiv")
    lineage.experiment = with_hub(experiment, expert_name="expert-arxiv")
    with pytest.raises(
        PublishingError,
        match=r"holds expert_model 'arxiv' of experiment 'pico', and expert_model 'github' of",
    ):
        publish_expert(lineage, "github", publisher=publisher_to(hub, lineage.experiment))
    assert hub.state.read("models", f"{OWNER}/expert-arxiv") == before


@pytest.mark.in_use
def test_a_dry_run_without_a_network_says_at_once_what_would_be_sent(line, hub, caplog):
    experiment, lineage = line
    dry = make_publisher(
        with_hub(experiment, namespace=OWNER),
        endpoint="http://127.0.0.1:9",
        dry_run=True,
        environment={"HF_TOKEN": TOKEN},
    )
    plan = publish_expert(lineage, "arxiv", publisher=dry).plan
    assert plan[0].endswith("cannot be reached, so its content is unknown; all files would be sent")
    assert any(entry.startswith("  send   model.safetensors") for entry in plan)
    assert "asking again" not in caplog.text


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(line, hub):
    experiment, lineage = line
    dry = publisher_to(hub, experiment, dry_run=True)
    plan = publish_expert(lineage, "arxiv", publisher=dry).plan
    size = (lineage.folder("expert_model", "arxiv") / "model.safetensors").stat().st_size
    assert plan[0].endswith("would be created (private)")
    assert f"  send   model.safetensors  ({size:,} bytes)" in plan
    assert hub.state.repositories() == []
    assert not lineage.folder("hub_expert", "arxiv").exists()
    publish_expert(lineage, "arxiv", publisher=publisher_to(hub, experiment))
    plan = publish_expert(lineage, "arxiv", publisher=dry).plan
    assert plan[-1] == "  no commit: nothing has changed"
    assert not [entry for entry in plan if entry.startswith("  send")]


def test_without_a_token_it_fails_at_once_with_the_remedy(finished, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(MissingTokenError, match=r"set HF_TOKEN to it.*endpoint: file:FOLDER"):
        publisher_to(hub, finished[0], token=None)
    assert hub.requests == []


@pytest.mark.parametrize("variable", ["HUGGING_FACE_HUB_TOKEN", "HF_ACCESS_TOKEN"])
def test_older_names_of_the_token_work_with_a_note(finished, hub, variable, caplog):
    publisher = make_publisher(
        finished[0], endpoint=hub.endpoint, environment={variable: TOKEN}, retries=QUICK
    )
    assert publisher.namespace == "alice"  # whom the token belongs to
    assert f"{variable} is deprecated: use HF_TOKEN for the token" in caplog.text
    assert TOKEN not in caplog.text


def test_a_token_that_is_unknown_or_may_not_write_is_explained(line, hub):
    experiment, lineage = line
    with pytest.raises(PublishingError, match="does not accept the token"):
        publisher_to(hub, experiment, token="hf_wrong")
    reader = publisher_to(hub, experiment, token=READER)
    with pytest.raises(PublishingError, match=r"refused \(403\).*may write to it"):
        publish_expert(lineage, "arxiv", publisher=reader)


def test_repositories_are_named_by_template(line, hub):
    _, lineage = line
    experiment = with_hub(lineage.experiment, expert_name="pythia-{domain}-expert", private=False)
    lineage.experiment = experiment
    publish_expert(lineage, "arxiv", publisher=publisher_to(hub, experiment))
    assert hub.state.repositories() == [("models", f"{OWNER}/pythia-arxiv-expert")]
    assert not hub.state.repository("models", f"{OWNER}/pythia-arxiv-expert").settings()["private"]


def test_a_commit_whose_answer_is_lost_is_not_made_twice(line, hub):
    experiment, lineage = line
    hub.faults.plan("POST", "/commit/main", Fault(CUT_ANSWER))
    done = publish_expert(lineage, "arxiv", publisher=publisher_to(hub, experiment))
    assert done.record.details["made_commit"]
    assert len(hub.commits("models", f"{OWNER}/expert-arxiv")) == 1
    assert len([path for path in hub.paths("POST") if "/commit/" in path]) == 1


def test_a_card_leaves_out_figures_of_what_was_made_anew_since(line, hub):
    experiment, lineage = line
    report = lineage.artifact("perplexity_report", "seed")
    rows = report.require().details["rows"]
    forge(report, details={"rows": [row | {"model_fingerprint": "0" * 32} for row in rows]})
    (lineage.artifact("perplexity_report", "expert-github").record_path).unlink()
    publisher = publisher_to(hub, experiment)
    for domain in ("arxiv", "github"):
        publish_expert(lineage, domain, publisher=publisher)
    shown, unmeasured = (
        hub.state.read("models", f"{OWNER}/expert-{domain}")["README.md"].decode()
        for domain in ("arxiv", "github")
    )
    assert "| 95 % interval | merged-mean-all | dense-one | dense |" in shown
    assert "It was not measured." in unmeasured
    train = lineage.artifact("domain_dataset", "arxiv").require().counts["train"]
    assert f"| training text of arxiv | {train['num_documents']} documents, " in shown


def test_a_repository_that_someone_else_changed_meanwhile_is_looked_at_again(line, hub):
    experiment, lineage = line
    hub.faults.plan("POST", "/commit/main", Fault("error", status=412))
    publish_expert(lineage, "arxiv", publisher=publisher_to(hub, experiment))
    assert len(hub.commits("models", f"{OWNER}/expert-arxiv")) == 1


def test_a_repository_that_is_public_already_is_told_of(line, hub, caplog):
    experiment, lineage = line
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    api.create_repo(f"{OWNER}/expert-arxiv", private=False)
    publish_expert(lineage, "arxiv", publisher=publisher_to(hub, experiment))
    assert f"model {OWNER}/expert-arxiv is public on {hub.endpoint}; it stays so" in caplog.text


def test_a_server_that_stays_down_is_given_up_on_and_can_be_tried_again(line, hub):
    experiment, lineage = line
    publisher = publisher_to(hub, experiment)
    hub.faults.plan("POST", "/commit/main", Fault("error", status=503), times=QUICK.num_attempts)
    with pytest.raises(PublishingError, match=r"8 attempts failed.*run the same command again"):
        publish_expert(lineage, "arxiv", publisher=publisher)
    assert not lineage.folder("hub_expert", "arxiv").exists()
    uploads = len(hub.paths("PUT"))
    publish_expert(lineage, "arxiv", publisher=publisher)
    assert len(hub.commits("models", f"{OWNER}/expert-arxiv")) == 1
    assert len(hub.paths("PUT")) == uploads  # what was uploaded is not sent twice


def test_a_server_says_how_long_it_wants_to_be_left_alone(line, hub, caplog):
    experiment, lineage = line
    caplog.set_level(logging.WARNING)
    hub.faults.plan("POST", "/repos/create", Fault("error", status=429, retry_after=0))
    publish_expert(lineage, "arxiv", publisher=publisher_to(hub, experiment))
    assert "asking again in 0 s" in caplog.text
    assert QUICK.wait_seconds(1, 30.0) == 30.0
    assert QUICK.wait_seconds(1, 10_000.0) == 900.0
    assert 0.005 <= QUICK.wait_seconds(20, None) <= 0.01


def test_text_under_copyright_is_refused_in_datasets_and_in_what_learned_from_them(
    line, hub, caplog
):
    """The dataset of `arxiv` holds Books3 in its general half only; its expert read it."""
    _, lineage = line
    domains = [
        {"key": "github", "name": "Books3"},
        {"key": "arxiv", "name": "ArXiv"},
        {"key": "freelaw", "name": "FreeLaw"},
        {"key": "enron", "name": "Enron Emails"},
    ]
    corpus = lineage.root.parent  # its files are not read here
    lineage.experiment = pico_experiment(corpus, domains=domains)
    publisher = publisher_to(hub, lineage.experiment)
    for publish, key in ((publish_dataset, "arxiv"), (publish_expert, "arxiv")):
        with pytest.raises(RestrictedDataError, match=r"under copyright: github.*allow_restricted"):
            publish(lineage, key, publisher=publisher)
    with pytest.raises(RestrictedDataError, match="model mdel-lab/pair"):
        publish_merged(lineage, "pair", publisher=publisher)
    assert hub.state.repositories() == []
    lineage.experiment = with_hub(lineage.experiment, allow_restricted=True)
    publish_dataset(lineage, "arxiv", publisher=publisher)
    assert "is made of text under copyright (github)" in caplog.text
    card = hub.state.read("datasets", f"{OWNER}/arxiv")["README.md"].decode()
    assert "books under copyright. **Under copyright.**" in card


def test_a_card_shows_what_the_model_writes_and_no_text_under_copyright(line, hub):
    experiment, lineage = line
    publisher = publisher_to(hub, experiment)
    publish_expert(lineage, "arxiv", publisher=publisher)
    card = hub.state.read("models", f"{OWNER}/expert-arxiv")["README.md"].decode()
    section = card.partition("## What it writes\n")[2].partition("\n## ")[0]
    assert section.index("| `expert-arxiv` |") < section.index("| `seed` |")
    written = {sample.domain: sample for sample in read_samples(lineage, "expert-arxiv")}
    assert escaped(written["github"].continuation) in section
    assert publish_expert(lineage, "arxiv", publisher=publisher).record.details["made_commit"]
    # What was written anew is published anew.
    artifact = lineage.artifact("sample_texts", "expert-arxiv")
    artifact.record_path.unlink()
    publish_expert(lineage, "arxiv", publisher=publisher)
    card = hub.state.read("models", f"{OWNER}/expert-arxiv")["README.md"].decode()
    assert "## What it writes" not in card


def test_texts_of_domains_under_copyright_are_on_no_card(line):
    _, lineage = line
    domains = [{"key": "github", "name": "Books3"}, *PICO["domains"][1:]]
    restricted = pico_experiment(lineage.root.parent, domains=domains)
    both = texts_section(lineage, "expert-arxiv", ["github", "arxiv"])
    lineage.experiment = restricted
    assert "#### github" in both
    assert texts_section(lineage, "expert-arxiv", ["github"]) == ""
