"""Forgetting a domain: all that was made from it is named, and nothing is touched unasked."""

import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import dagster as dg
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets.defs.graph import build_definitions
from mdel_assets.errors import PublishingError
from mdel_assets.line.locks import making
from mdel_assets.maintenance.forgetting import mark_forgotten, plan_forgetting
from mdel_assets.merging.one_off import one_off_artifact
from mdel_assets.publishing.forgotten import refuse_forgotten
from mdel_assets.store.durable_files import exclusively
from mdel_assets.store.records import Identity
from mdel_assets_tests.conftest import forge
from mdel_assets_tests.publishing.conftest import OWNER, hub, own_home
from mdel_assets_tests.publishing.test_merge_command import mdel
from mdel_assets_tests.waiting import wait_until

__all__ = ["hub", "mdel", "own_home"]


class Terminal(io.BytesIO):
    """What a person types at a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def whole_home(finished, own_home):
    """The finished line with its scores, which `own_home` leaves out."""
    shutil.copytree(finished[1].root / "pico" / "scores", own_home.root / "pico" / "scores")
    return own_home


def files_under(folder):
    """Return when each file was changed, notes on what was verified apart."""
    files = [path for path in folder.rglob("*") if path.is_file() and "verified" not in path.parts]
    return {path: path.stat().st_mtime_ns for path in files}


def derived_in(said):
    """Return the lines of what is derived, by label."""
    lines = [line for line in said.splitlines() if line.startswith("derived")]
    return {" ".join(line.split("  ")[0:4]).removeprefix("derived").strip(): line for line in lines}


def count_of(folder, domain):
    column = pq.ParquetDataset(list(folder.glob("*.parquet"))).read(columns=["domain"])
    return pc.sum(pc.equal(column.column("domain"), domain)).as_py() or 0


def label(record):
    return f"{record['kind']} '{record['key']}'" if record["key"] else record["kind"]


def reached_by_brute_force(root, domain):
    """Return the labels of all records whose inputs lead to a document of ``domain``."""
    records = [
        (path, json.loads(path.read_text()))
        for path in root.rglob("*record.json")
        if "publications" not in path.parts
    ]
    reached = {
        label(record)
        for path, record in records
        if record["kind"] == "domain_dataset" and count_of(path.parent, domain)
    }
    while more := {label(r) for _, r in records if reached & set(r["inputs"])} - reached:
        reached |= more
    return reached


def make_artifact(artifact, kind, inputs):
    """Put an artifact of ``kind`` where no table of kinds would look."""
    place = {"kind": kind, "key": "left", "experiment": "pico"}
    identity = Identity(**place, code_version="1", config={}, inputs=inputs)
    artifact = type(artifact)(
        **place, folder=artifact.folder, record_path=artifact.record_path, remedy=""
    )
    with artifact.staging() as stage:
        (stage / "weights.bin").write_bytes(bytes(3 << 20))
        artifact.publish(stage, identity)


def test_everything_derived_is_listed_and_nothing_is_touched(mdel, own_home, hub):
    mdel("publish", "expert", "arxiv")
    before = files_under(own_home.root)
    said = mdel("forget", "--domain", "arxiv")
    root = own_home.root / "pico"
    assert f"text       {root}/documents/00/arxiv.parquet: its documents, 0.0 MiB" in said
    lines = derived_in(said)
    count = count_of(root / "datasets" / "github", "arxiv")
    assert f"{count} of its documents in the general half" in lines["domain_dataset 'github'"]
    assert "its dataset" in lines["domain_dataset 'arxiv'"]
    assert "made from expert_model 'github' and 1 more" in lines["merged_model 'pair'"]
    for label in ("seed_model", "expert_model 'arxiv'", "dense_baseline", "perplexity_matrix"):
        assert label in lines
    assert f"published  model {OWNER}/expert-arxiv on {hub.endpoint}" in said
    assert f"elsewhere  {root}/shards/00: a raw shard (has other text, too, so it stays" in said
    assert "Nothing was changed" in said
    assert files_under(own_home.root) == before


@pytest.mark.in_use
def test_what_is_derived_is_what_all_records_say_whatever_their_kind(mdel, finished, whole_home):
    lineage = whole_home.lineage(finished[0])
    expert = lineage.artifact("expert_model", "github").require().fingerprint
    inputs = {"expert_model 'github'": expert}
    # A kind that no list names, a recipe that left the YAML, a model that was merged for itself.
    make_artifact(lineage.artifact("searched_merge", "left"), "vocabulary", inputs)
    make_artifact(lineage.artifact("merged_model", "left"), "merged_model", inputs)
    for domain in ("github", "arxiv"):
        lines = derived_in(mdel("forget", "--domain", domain))
        assert set(lines) == reached_by_brute_force(whole_home.root / "pico", domain)
    assert "      3.0 MiB  made from expert_model 'github'" in lines["vocabulary 'left'"]
    mdel("forget", "--domain", "github", "--delete", "--yes")
    assert reached_by_brute_force(whole_home.root / "pico", "github") == set()
    assert not lineage.folder("searched_merge", "left").exists()


@pytest.mark.in_use
def test_a_domain_without_a_document_derives_nothing(mdel, own_home):
    before = files_under(own_home.root)
    said = mdel("forget", "--domain", "enron", "--mark", "--delete", "--yes")
    assert said == f"Nothing in {own_home.root} was made from text of 'enron'.\n"
    assert files_under(own_home.root) == before


@pytest.mark.in_use
def test_an_input_that_is_gone_may_have_held_the_domain(mdel, own_home):
    """An expert outlives its dataset; a copy of its folder under another name is one, too."""
    root = own_home.root / "pico"
    shutil.rmtree(root / "datasets" / "arxiv")
    shutil.copytree(root / "models" / "experts" / "arxiv", root / "models" / "backup")
    said = mdel("forget", "--domain", "arxiv")
    lines = [line for line in said.splitlines() if "expert_model 'arxiv' " in line.split("made")[0]]
    assert len(lines) == 2
    mdel("forget", "--domain", "arxiv", "--delete", "--yes")
    assert not (root / "models" / "backup").exists()


@pytest.mark.in_use
def test_deleting_asks_and_says_how_much(mdel, own_home):
    before = files_under(own_home.root)
    told = mdel("forget", "--domain", "arxiv", "--delete", fails=True)
    assert "artifacts, " in told
    assert "the command cannot ask for confirmation: add --yes." in told
    arguments = ["forget", "--domain", "arxiv", "--delete"]
    refused = CliRunner().invoke(main, arguments, input=Terminal(b"n\n"))
    assert "MiB)? [y/N]" in refused.output
    assert "deleted here" not in refused.output
    assert files_under(own_home.root) == before
    agreed = CliRunner().invoke(main, arguments, input=Terminal(b"y\n"))
    assert "deleted here" in agreed.output
    assert not list(own_home.root.rglob("*.safetensors"))


@pytest.mark.in_use
def test_what_is_not_agreed_to_is_neither_marked_nor_deleted_anywhere(mdel, own_home, hub):
    mdel("publish", "expert", "arxiv")
    before = files_under(own_home.root)
    arguments = ["forget", "--domain", "arxiv", "--mark", "--delete", "--yes-delete-remote"]
    asked = CliRunner().invoke(main, arguments, input=Terminal(b"n\n"))
    told = f"model {OWNER}/expert-arxiv on {hub.endpoint}"
    assert f"MiB) and {told}? [y/N]" in asked.output
    assert asked.exit_code == 1
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    assert files_under(own_home.root) == before
    assert len(hub.state.repositories()) == 1
    agreed = CliRunner().invoke(main, arguments, input=Terminal(b"y\n"))
    assert f"deleted    {told}" in agreed.output
    assert hub.state.repositories() == []


@pytest.mark.in_use
def test_text_outside_of_artifacts_is_named_and_removed(mdel, finished, own_home):
    root = own_home.root / "pico"
    planted = [root / "work" / "rejects-00" / "rejects.parquet", own_home.cache / "partial-pico-00"]
    for path in planted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"theorem")
    (own_home.root / "wandb" / "offline-run-1").mkdir(parents=True)
    definitions = build_definitions(finished[0], own_home)
    job = definitions.resolve_implicit_global_asset_job_def()
    history = own_home.root / "dagster"
    history.mkdir()
    (history / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(history)) as instance:
        keys = {"dagster/asset_partition_range_start": "github"}
        keys["dagster/asset_partition_range_end"] = "enron"
        datasets = [dg.AssetKey("domain_dataset")]
        result = job.execute_in_process(instance=instance, asset_selection=datasets, tags=keys)
        texts = [dg.AssetKey("sample_texts")]
        written = job.execute_in_process(
            instance=instance, asset_selection=texts, partition_key="seed"
        )
    fragment = next(iter(pq.read_table(root / "documents" / "00" / "github.parquet")["text"]))
    fragment = str(fragment)[:80].encode()
    assert [path for path in history.rglob("*.db") if fragment in path.read_bytes()]
    said = mdel("forget", "--domain", "github")
    assert f"text       {root / 'work' / 'rejects-00'}: work in progress, or damaged" in said
    assert f"text       {planted[1]}: a partly fetched shard" in said
    assert f"text       Dagster's run {result.run_id}: sample rows and texts" in said
    assert f"text       Dagster's run {written.run_id}: sample rows and texts" in said
    assert f"elsewhere  {own_home.root / 'wandb'}: losses and figures of models" in said
    mdel("forget", "--domain", "github", "--delete", "--yes")
    assert not any(path.exists() for path in planted)
    with dg.DagsterInstance.from_config(str(history)) as instance:
        assert instance.get_run_by_id(result.run_id) is None
        assert instance.fetch_materializations(datasets[0], limit=1).records == []
        assert instance.fetch_materializations(texts[0], limit=1).records == []
    files = [path for path in own_home.root.rglob("*") if path.is_file()]
    assert [path for path in files if fragment in path.read_bytes()] == []
    again = mdel("forget", "--domain", "github").splitlines()
    assert not [line for line in again if line.startswith(("text", "derived"))]


def test_text_in_a_damaged_file_counts_and_raw_shards_are_named_to_the_end(mdel, own_home):
    documents = own_home.root / "pico" / "documents" / "00" / "github.parquet"
    documents.write_bytes(b"junk")
    said = mdel("forget", "--domain", "github", "--delete", "--yes")
    assert f"text       {documents}" in said
    assert not documents.exists()
    again = mdel("forget", "--domain", "github")
    assert f"elsewhere  {own_home.root / 'pico' / 'shards' / '00'}: a raw shard" in again


def test_what_is_marked_is_not_published(mdel, hub):
    mdel("forget", "--domain", "arxiv", "--mark")
    told = mdel("publish", "expert", "arxiv", fails=True)
    assert "marked as forgotten (expert_model 'arxiv', of 'arxiv')" in told
    assert hub.state.repositories() == []


@pytest.mark.in_use
def test_what_is_made_of_something_marked_is_not_published_either(mdel, hub, finished, own_home):
    mdel("forget", "--domain", "arxiv", "--mark")
    forge(own_home.lineage(finished[0]).artifact("merged_model", "pair"), fingerprint="f" * 32)
    told = mdel("publish", "merged", "pair", fails=True)
    assert "merged_model 'pair' is marked as forgotten (" in told
    merged = ("merge", "-e", "github", "-e", "arxiv", "--hf-repo", "mean")
    assert "is marked as forgotten (" in mdel(*merged, fails=True)
    assert hub.state.repositories() == []


def test_it_is_deleted_here_and_elsewhere_only_when_both_are_asked_for(mdel, own_home, hub):
    mdel("publish", "expert", "arxiv")
    mdel("publish", "expert", "github")
    said = mdel("forget", "--domain", "arxiv", "--delete", "--yes")
    root = own_home.root / "pico"
    assert not list(root.rglob("*.safetensors"))
    assert not (root / "documents" / "00" / "arxiv.parquet").exists()
    assert (root / "documents" / "00" / "github.parquet").exists()
    assert (root / "shards" / "00" / "00.jsonl.zst").exists()
    assert "Published repositories are kept" in said
    assert len(hub.state.repositories()) == 2
    # Where it was published is still known, and can be deleted later.
    said = mdel("forget", "--domain", "arxiv", "--yes-delete-remote")
    assert f"deleted    model {OWNER}/expert-arxiv on {hub.endpoint}" in said
    assert hub.state.repositories() == []
    assert "deleted  " not in mdel("forget", "--domain", "arxiv", "--yes-delete-remote")


@pytest.mark.in_use
@pytest.mark.parametrize("is_one_off", [False, True])
def test_what_is_made_meanwhile_is_waited_for_and_deleted_whole(
    mdel, finished, own_home, caplog, is_one_off
):
    lineage = own_home.lineage(finished[0])
    inputs = {
        "domain_dataset 'github'": lineage.artifact("domain_dataset", "github")
        .require()
        .fingerprint
    }
    # A folder for oneself may be called as the line's work folder is.
    artifact = (
        one_off(own_home.merges / "work")
        if is_one_off
        else lineage.artifact("merged_model", "left")
    )
    with ThreadPoolExecutor(1) as threads:
        with making(artifact):
            deleting = threads.submit(mdel, "forget", "--domain", "github", "--delete", "--yes")
            name = artifact.lock_path.name.strip(".")
            wait_until(lambda: f"waiting for {name}, which process" in caplog.text)
            assert lineage.artifact("merged_model", "pair").read_record()
            make_artifact(artifact, artifact.kind, inputs)
        deleting.result()
    assert not artifact.folder.exists()
    assert reached_by_brute_force(own_home.root / "pico", "github") == set()


def one_off(folder):
    folder.parent.mkdir(exist_ok=True)
    artifact = one_off_artifact(folder, experiment="pico")
    artifact.lock_path.touch()
    return artifact


@pytest.mark.in_use
def test_a_mark_holds_at_once_and_waits_for_what_is_being_published(
    mdel, finished, own_home, caplog
):
    lineage = own_home.lineage(finished[0])
    publication = lineage.artifact("hub_expert", "arxiv")
    with ThreadPoolExecutor(1) as threads:
        with making(publication):
            marking = threads.submit(mdel, "forget", "--domain", "arxiv", "--mark")
            wait_until(lambda: "waiting for hub_expert-arxiv, which process" in caplog.text)
            with pytest.raises(PublishingError, match="is marked as forgotten"):
                refuse_forgotten(lineage, lineage.artifact("expert_model", "arxiv"))
        marking.result()


@pytest.mark.in_use
def test_of_two_marks_at_once_both_are_kept(finished, own_home):
    lineage = own_home.lineage(finished[0])
    traces = plan_forgetting(own_home, lineage, "arxiv")
    path = lineage.forgotten
    with ThreadPoolExecutor(1) as threads:
        with exclusively(lineage.root / "work" / "locks" / "forgotten"):
            marking = threads.submit(mark_forgotten, lineage, traces)
            path.write_text("{\"fingerprint\": \"expert_model 'enron', of 'enron'\"}")
        marking.result()
    assert len(json.loads(path.read_text())) == len(traces.derived) + 1


def test_an_unknown_domain_is_refused(mdel):
    assert "Did you mean 'arxiv'" in mdel("forget", "--domain", "arxvi", fails=True)
