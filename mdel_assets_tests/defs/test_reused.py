"""What a page shows of an artifact that was up to date, and how it is made anew all the same."""

import json
import os
import shutil

import pytest
import yaml
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets.home import MdelHome
from mdel_assets_tests.defs.finished_line import materialize
from mdel_assets_tests.s3_server import BUCKET

pytestmark = pytest.mark.in_use
LONG_AGO = 1_000_000_000
KEYS = ("arxiv", "github")


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """A copy of the finished line, which the environment names: (experiment, home)."""
    experiment, home, _ = finished
    copy = MdelHome(tmp_path / "home")
    shutil.copytree(home.root, copy.root, symlinks=True)
    path = tmp_path / "pico.yaml"
    path.write_text(yaml.safe_dump(json.loads(experiment.model_dump_json(exclude_none=True))))
    monkeypatch.setenv("MDEL_HOME", str(copy.root))
    monkeypatch.setenv("MDEL_EXPERIMENT", str(path))
    return experiment, copy


def shown(experiment, home, asset, key):
    """Return what the page of one asset or partition shows first after it was materialized."""
    (event,) = materialize(experiment, home, asset, key).get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert next(iter(metadata)) == "state"
    forcing = metadata["to_make_it_anew"].value if "to_make_it_anew" in metadata else ""
    return metadata["state"].value, metadata["made_at"].value, forcing


@pytest.mark.parametrize(
    ("asset", "key"),
    [
        ("raw_pile_shard", "00"),
        ("shard_documents", "00"),
        ("domain_dataset", "arxiv"),
        ("seed_model", None),
        ("expert_model", "arxiv"),
        ("merged_model", "pair"),
        ("perplexity_report", "seed"),
        ("perplexity_matrix", None),
    ],
)
def test_what_is_up_to_date_is_shown_as_reused_with_the_time_of_its_making(place, asset, key):
    experiment, home = place
    record = home.lineage(experiment).artifact(asset, key or "").record_path
    os.utime(record, (LONG_AGO, LONG_AGO))
    forcing = f"Remove {record}, then materialize it."
    if key:
        forcing = f"mdel backfill --asset {asset} --partitions {key} --force"
    seen = shown(experiment, home, asset, key)
    assert seen == ("reused: up to date since 2001-09-09 01:46 UTC", LONG_AGO, forcing)


def test_what_a_run_makes_is_not_shown_as_reused(place):
    experiment, home = place
    artifact = home.lineage(experiment).artifact("perplexity_report", "seed")
    artifact.remove()
    assert not artifact.record_path.exists()
    assert artifact.folder.exists()
    seen = shown(experiment, home, "perplexity_report", "seed")
    made_at = artifact.record_path.stat().st_mtime
    assert seen == ("made in this run", made_at, "")


def test_force_makes_anew_what_is_up_to_date_and_nothing_else(place):
    experiment, home = place
    lineage = home.lineage(experiment)
    files = {
        key: lineage.artifact("domain_dataset", key).record_path for key in ("arxiv", "github")
    }
    before = {key: path.read_bytes() for key, path in files.items()}
    for path in files.values():
        os.utime(path, (LONG_AGO, LONG_AGO))
    words = ["backfill", "--asset", "domain_dataset", "--partitions", "arxiv", "--here"]
    planned = CliRunner().invoke(main, [*words, "--force", "--dry-run"])
    assert "1 of 1 would be remade" in planned.output
    done = CliRunner().invoke(main, [*words, "--force"])
    assert done.exit_code == 0, done.output
    assert files["arxiv"].stat().st_mtime > LONG_AGO
    assert files["github"].stat().st_mtime == LONG_AGO
    assert {key: path.read_bytes() for key, path in files.items()} == before
    os.utime(files["arxiv"], (LONG_AGO, LONG_AGO))
    CliRunner().invoke(main, words)
    assert files["arxiv"].stat().st_mtime == LONG_AGO


def test_what_is_to_be_removed_from_a_store_is_named_too(place, proxy, s3):
    experiment, home = place
    artifact = home.lineage(experiment).artifact("perplexity_matrix")
    os.utime(artifact.record_path, (LONG_AGO, LONG_AGO))
    *_, forcing = shown(experiment, home, "perplexity_matrix", None)
    fingerprint = artifact.look().fingerprint
    (entry,) = [name for name in s3.names("shared/experiments/") if fingerprint in name]
    told = f"Remove {artifact.record_path} and s3://{BUCKET}/{entry}, then materialize it."
    assert forcing == told


def test_publishing_is_not_forced(place):
    words = ["backfill", "--asset", "hub_dataset", "--partitions", "arxiv", "--force"]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2
    assert "--force has no use in publishing" in refused.output
