"""A home that is a cache of a store: its limit, what is forgotten, and the command for all this."""

import dataclasses
import json
import os

import dagster as dg
import pytest
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets.defs.launch import run_line
from mdel_assets.errors import ExperimentError, ObjectStoreError
from mdel_assets.home import MdelHome
from mdel_assets.line.cache_limit import keep_within_limit
from mdel_assets.line.making import make, make_all
from mdel_assets.maintenance.forgetting import delete_local, plan_forgetting
from mdel_assets.store.in_use import use, using
from mdel_assets.store.remote.entries import file_name
from mdel_assets_tests.conftest import pico_experiment

KINDS = ["raw_pile_shard", "shard_documents", "domain_dataset"]


@pytest.fixture
def lineage(corpus, tmp_path, proxy):
    """The pico experiment's datasets, in a home and in the store."""
    lineage = MdelHome(tmp_path / "home").lineage(pico_experiment(corpus))
    with using():
        for kind in KINDS:
            make_all(lineage, kind, lineage.keys(kind))
    return lineage


def artifacts(lineage):
    return [lineage.artifact(kind, key) for kind in KINDS for key in lineage.keys(kind)]


def here(lineage):
    return {a.label for a in artifacts(lineage) if a.record_path.exists()}


def size_here(lineage):
    files = {}
    for artifact in artifacts(lineage):
        if artifact.record_path.exists():
            for name in artifact.read_record().files:
                status = (artifact.folder / name).stat()
                files[status.st_ino] = status.st_size
    return sum(files.values())


def test_what_was_used_longest_ago_goes_first_and_comes_back_when_it_is_needed(lineage, s3):
    everything = artifacts(lineage)
    records = {artifact.label: artifact.look() for artifact in everything}
    with using():
        # In this order they are used, whatever the clock's ticks.
        for number, artifact in enumerate(everything):
            use(artifact.use_path)
            os.utime(artifact.use_path, (2e9 + number, 2e9 + number))
    limit = size_here(lineage) // 2
    keep_within_limit(lineage, {"MDEL_CACHE_BYTES": str(limit)})
    assert size_here(lineage) <= limit
    labels = [artifact.label for artifact in everything]
    left = [label for label in labels if label in here(lineage)]
    assert left == labels[-len(left) :]
    # One more would not have had room.
    (next_one,) = [a for a in everything if a.label == labels[-len(left) - 1]]
    added = sum(file["size_bytes"] for file in records[next_one.label].files.values())
    assert size_here(lineage) + added > limit
    assert all(lineage.current(a.kind, a.key) == records[a.label] for a in everything)
    for artifact in everything:
        assert artifact.require() == records[artifact.label]
        assert artifact.damage(records[artifact.label], read_all=True) is None


def test_what_is_in_use_or_not_in_the_store_stays_whatever_the_limit(lineage):
    used, unpushed, *_ = artifacts(lineage)
    lineage.remote.remove(unpushed.remote.place, unpushed.remote.versions())
    with using():
        used.require()
        keep_within_limit(lineage, {"MDEL_CACHE_BYTES": "0"})
        assert here(lineage) == {used.label, unpushed.label}
    keep_within_limit(lineage, {"MDEL_CACHE_BYTES": "0"})
    assert here(lineage) == {unpushed.label}


def test_a_run_pushes_what_was_made_before_there_was_a_store(corpus, home, proxy, monkeypatch):
    experiment = pico_experiment(corpus)
    with monkeypatch.context() as without:
        without.delenv("MDEL_STORE")
        alone = home.lineage(experiment)
        records = make_all(alone, "raw_pile_shard", alone.keys("raw_pile_shard"))
    lineage = home.lineage(experiment)
    assert "not in s3://" in lineage.to_do("raw_pile_shard", "00").reason
    with dg.DagsterInstance.ephemeral() as instance:
        outcomes = list(run_line(experiment, home, instance=instance, until="raw_pile_shard"))
    assert [(o.key, o.state) for o in outcomes] == [(key, "made") for key in records]
    lineage.remote.look_again()
    assert {key: lineage.artifact("raw_pile_shard", key).remote.newest() for key in records} == (
        records
    )


def test_a_push_that_fails_loses_none_of_what_was_made_with_it(lineage, proxy):
    """Datasets are made in one go: here the store refuses the entry of the first alone."""
    kind = "domain_dataset"
    first, *others = [lineage.artifact(kind, key) for key in lineage.keys(kind)]
    for artifact in (first, *others):
        artifact.remove()
        artifact.remote.remove()

    def refuse(method, path):
        is_first = method == "PUT" and f"datasets/{first.key}/" in path
        proxy.refused, proxy.refusal = float(is_first), 403

    proxy.before = refuse
    made = make(lineage, kind, lineage.keys(kind))
    assert list(made.failures) == [first.key]
    assert isinstance(made.failures[first.key], ObjectStoreError)
    assert first.record_path.exists()
    assert list(made.records) == [artifact.key for artifact in others]
    for artifact in others:
        assert artifact.remote.newest() == made.records[artifact.key]
    # The next run only pushes what is left.
    proxy.before = lambda method, path: None
    proxy.refused = 0.0
    written = first.record_path.stat()
    assert make(lineage, kind, [first.key]).failures == {}
    now = first.record_path.stat()
    assert (now.st_ino, now.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert first.remote.newest() == first.require()


def test_each_machine_uses_the_version_that_its_own_experiment_asks_for(lineage, corpus, tmp_path):
    ours = lineage.artifact("domain_dataset", "github").look()
    home = MdelHome(tmp_path / "other")
    theirs = home.lineage(pico_experiment(corpus, mixture={"seed": 7}))
    make_all(theirs, "domain_dataset", theirs.keys("domain_dataset"))
    newest = theirs.artifact("domain_dataset", "github").look()
    assert newest.fingerprint != ours.fingerprint

    label = "domain_dataset 'github'"
    # A machine with nothing, and one that has the other version in its home.
    for place in (MdelHome(tmp_path / "empty"), home):
        there = place.lineage(lineage.experiment)
        assert there.current("domain_dataset", "github") == ours
        assert there.identity("seed_model").inputs[label] == ours.fingerprint
        there.bring_inputs("seed_model")
        dataset = there.artifact("domain_dataset", "github")
        assert dataset.record_path.read_text() == ours.text()
        assert dataset.damage(ours, read_all=True) is None
    assert theirs.current("domain_dataset", "github") == newest


def test_a_limit_that_is_no_number_is_refused(lineage):
    with pytest.raises(ExperimentError, match="'10G', expected a number of bytes"):
        keep_within_limit(lineage, {"MDEL_CACHE_BYTES": "10G"})


def test_a_forgotten_domain_is_gone_from_the_store_on_a_machine_that_never_had_it(
    lineage, tmp_path, s3
):
    dataset = lineage.artifact("domain_dataset", "github").look()
    documents = lineage.artifact("shard_documents", "00").look()
    other = MdelHome(tmp_path / "other")
    there = other.lineage(lineage.experiment)
    plan = plan_forgetting(other, there, "github")
    assert "domain_dataset 'github'" in {entry.found.artifact.label for entry in plan.derived}
    delete_local(other, there, "github")
    left = set(s3.names())
    assert [name for name in left if "datasets/github" in name] == []
    for file in (dataset.files["train.parquet"], documents.files["github.parquet"]):
        assert f"shared/{file_name(file['xxh3'])}" not in left
    # Raw shards hold every domain's text, here as in a home: they are told, and stay.
    assert [name for name in left if "/shards/00/" in name]
    there.remote.look_again()
    assert plan_forgetting(other, there, "github").derived == []


def test_the_command_lists_and_removes_what_is_of_no_use(lineage, monkeypatch, tmp_path, s3):
    monkeypatch.setenv("MDEL_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("MDEL_EXPERIMENT", str(tmp_path / "pico.yaml"))
    content = lineage.experiment.model_dump(mode="json", by_alias=True, exclude_unset=True)
    content.pop("folder", None)
    (tmp_path / "pico.yaml").write_text(json.dumps(content))
    shown = CliRunner().invoke(main, ["store"])
    assert shown.exit_code == 0, shown.output
    num_artifacts = len(artifacts(lineage))
    assert f"holds {num_artifacts} artifacts of 'pico'" in shown.output
    assert "superseded" not in shown.output

    dataset = lineage.artifact("domain_dataset", "github")
    record = dataset.require()
    newer = dataclasses.replace(record, fingerprint=32 * "0").sealed()
    dataset.remote.push(newer, None, dataset.folder)
    shown = CliRunner().invoke(main, ["store"])
    assert "1 superseded versions" in shown.output
    removed = CliRunner().invoke(main, ["store", "--remove-superseded", "--json"])
    told = json.loads(removed.output)
    (version,) = told["superseded"]
    names = [name for name in s3.names("shared/experiments/") if "datasets/github" in name]
    assert len(names) == 1
    assert version["fingerprint"] not in names[0]
    # The files of the version that is left are no others.
    assert told["unreferenced"] == []

    monkeypatch.delenv("MDEL_STORE")
    shown = CliRunner().invoke(main, ["store"])
    assert shown.exit_code == 1
    assert "MDEL_STORE is not set" in shown.output
