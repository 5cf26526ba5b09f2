"""Domains that the corpus lacks: nothing lists, makes, misses or records them."""

import json
import shutil

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner
from dagster._core.storage.tags import BACKFILL_ID_TAG

from mdel_assets.cli.main import main
from mdel_assets.defs.graph import build_definitions
from mdel_assets.defs.partitions import range_tags
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_all, make_one
from mdel_assets.line.what_is_stale import could_be_made
from mdel_assets_tests.conftest import KEY_OF, PICO, make_documents, pico_experiment, write_shard

pytestmark = pytest.mark.in_use
SENTENCE = "absent: the corpus has no training document of 'enron'"
PRESENT = ["github", "arxiv", "freelaw"]
DECLARED = [*PRESENT, "enron"]
OF_DOMAINS = ("domain_dataset", "expert_model", "layer_differences", "hub_dataset", "hub_expert")
OF_MODELS = ("token_scores", "perplexity_report")


def partitions(experiment, home):
    graph = build_definitions(experiment, home).resolve_asset_graph()
    return {
        key.path[-1]: list(found.get_partition_keys())
        for key in graph.get_all_asset_keys()
        if (found := graph.get(key).partitions_def)
    }


def run(experiment, home, asset, **options):
    """Return the partitions that the run recorded, what it observed of others, and its warnings."""
    job = build_definitions(experiment, home).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        done = job.execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey(asset)], **options
        )
        logs = instance.all_logs(done.run_id)
    made = [e.partition for e in done.get_asset_materialization_events()]
    seen = {
        event.dagster_event.partition: event.dagster_event.asset_observation_data.asset_observation
        for event in logs
        if event.dagster_event and event.dagster_event.event_type_value == "ASSET_OBSERVATION"
    }
    told = [event.user_message for event in logs if event.level > 20]
    return made, {key: found.metadata["state"].value for key, found in seen.items()}, told


def test_absent_domains_are_in_no_partition_once_the_corpus_was_read(finished, corpus, tmp_path):
    experiment, home, _ = finished
    before = partitions(experiment, MdelHome(tmp_path))
    after = partitions(experiment, home)
    for asset in OF_DOMAINS:
        assert before[asset] == DECLARED
        assert after[asset] == PRESENT
    assert before["random_split_expert"] == ["1", "2", "3", "4"]
    assert after["random_split_expert"] == ["1", "2", "3"]
    for asset in OF_MODELS:
        assert after[asset] == [
            key for key in before[asset] if key not in ("expert-enron", "random-4")
        ]
        assert before[asset] == experiment.model_keys


def test_the_line_makes_nothing_of_an_absent_domain_and_says_so(finished):
    experiment, home, outcomes = finished
    assert [(o.state, o.key) for o in outcomes if o.kind == "domain_dataset"] == [
        ("absent", "1 of 4"),
        ("made", "all 3"),
    ]
    assert list((home.root / "pico").rglob("*enron*")) == []
    assert home.lineage(experiment).present_domains() == PRESENT


def test_the_seed_is_what_it_was_beside_an_empty_dataset(finished, tmp_path):
    """Older homes hold a dataset without documents for each absent domain."""
    experiment, home, _ = finished
    older = MdelHome(tmp_path / "home")
    shutil.copytree(home.root, older.root, symlinks=True)
    lineage = older.lineage(experiment)
    (empty,) = make_all(lineage, "domain_dataset", ["enron"]).values()
    assert empty.counts["train"]["num_documents"] == 0
    seed = lineage.artifact("seed_model").require()
    assert seed.inputs["domain_dataset 'enron'"] == empty.fingerprint
    assert lineage.current("seed_model") == seed
    assert partitions(experiment, older)["expert_model"] == PRESENT


@pytest.mark.parametrize(
    ("asset", "key"),
    [
        *((asset, "enron") for asset in ("domain_dataset", "expert_model", "layer_differences")),
        *((asset, "expert-enron") for asset in OF_MODELS),
    ],
)
def test_an_absent_domain_that_is_named_is_answered_and_recorded_as_nothing(finished, asset, key):
    experiment, home, _ = finished
    made, seen, told = run(experiment, home, asset, partition_key=key)
    assert made == []
    assert seen == {key: SENTENCE}
    assert SENTENCE in told
    assert list((home.root / "pico").rglob("*enron*")) == []


def test_a_range_may_begin_or_end_with_an_absent_domain(finished):
    experiment, home, _ = finished
    made, seen, _ = run(experiment, home, "domain_dataset", tags=range_tags(DECLARED))
    assert sorted(made) == sorted(PRESENT)
    assert seen == {"enron": SENTENCE}
    made, seen, _ = run(experiment, home, "domain_dataset", tags=range_tags(["enron", "enron"]))
    assert (made, seen) == ([], {"enron": SENTENCE})


@pytest.mark.parametrize(
    "asked", [{"partition_key": "enron"}, {"tags": range_tags(DECLARED)}], ids=["alone", "range"]
)
def test_a_backfill_of_before_is_not_left_waiting_for_an_absent_domain(finished, asked):
    """What a backfill asked for and no run records as materialized, it counts as failed."""
    experiment, home, _ = finished
    asked = asked | {"tags": asked.get("tags", {}) | {BACKFILL_ID_TAG: "before"}}
    made, seen, told = run(experiment, home, "domain_dataset", **asked)
    assert "enron" in made
    assert seen == {}
    assert SENTENCE in told


def test_a_new_shard_or_another_name_of_the_domain_brings_it_back(finished, corpus, tmp_path):
    experiment, home, _ = finished
    new = write_shard(tmp_path / "02.jsonl.zst", make_documents({"Github": 3}))
    source = {"train": [*experiment.source.train, str(new)]}
    assert partitions(pico_experiment(corpus, source=source), home)["expert_model"] == DECLARED
    domains = [d if d["key"] != "enron" else d | {"aliases": ["Mail"]} for d in PICO["domains"]]
    renamed = pico_experiment(corpus, domains=domains)
    assert partitions(renamed, home)["expert_model"] == DECLARED
    more = [*PICO["domains"], {"key": "uspto", "name": "USPTO Backgrounds"}]
    assert partitions(pico_experiment(corpus, domains=more), home)["expert_model"] == [
        *PRESENT,
        "uspto",
    ]


def test_absent_domains_stay_so_where_the_shards_files_are_gone(finished, tmp_path):
    experiment, home, _ = finished
    source = experiment.source.model_copy(update={"train": (str(tmp_path / "*.jsonl.zst"),)})
    lineage = home.lineage(experiment.model_copy(update={"source": source}))
    assert lineage.present_domains() == PRESENT


def test_a_domain_of_validation_text_alone_has_a_dataset_and_no_expert(tmp_path, home):
    sizes = dict.fromkeys(KEY_OF, 4)
    for name in ("00", "01"):
        write_shard(tmp_path / f"{name}.jsonl.zst", make_documents(sizes | {"FreeLaw": 0}))
    for name, first in (("val", 100), ("test", 200)):
        write_shard(tmp_path / f"{name}.jsonl.zst", make_documents(sizes, first=first))
    experiment = pico_experiment(tmp_path)
    lineage = home.lineage(experiment)
    for shard in experiment.shards():
        make_one(lineage, "raw_pile_shard", shard.key)
        make_one(lineage, "shard_documents", shard.key)
    assert lineage.keys("domain_dataset") == PRESENT
    assert lineage.absent_domains() == ["enron"]
    make_all(lineage, "domain_dataset", lineage.keys("domain_dataset"))
    assert lineage.absent_domains() == ["freelaw", "enron"]
    assert partitions(experiment, home)["expert_model"] == ["github", "arxiv"]


@pytest.fixture
def environment(finished, tmp_path, monkeypatch):
    experiment, home, _ = finished
    path = tmp_path / "pico.yaml"
    path.write_text(yaml.safe_dump(json.loads(experiment.model_dump_json(exclude_none=True))))
    monkeypatch.setenv("MDEL_HOME", str(home.root))
    monkeypatch.setenv("MDEL_EXPERIMENT", str(path))


def test_status_and_backfill_speak_of_absent_domains(environment):
    status = CliRunner().invoke(main, ["status"])
    assert "absent: the corpus has no training document of enron\n" in status.output
    words = ["backfill", "--asset", "expert_model", "--partitions"]
    refused = CliRunner().invoke(main, [*words, "github,enron", "--dry-run"])
    assert refused.exit_code == 1
    assert f"Error: expert_model has no partition 'enron': {SENTENCE}." in refused.output
    planned = CliRunner().invoke(main, [*words, "all", "--dry-run"])
    assert "0 of 3 would be remade" in planned.output


def test_nothing_requests_a_dataset_of_an_absent_domain(finished):
    experiment, home, _ = finished
    lineage = home.lineage(experiment)
    assert not could_be_made(lineage, "domain_dataset", "enron")
    shutil.move(lineage.folder("domain_dataset", "arxiv"), home.root / "away")
    assert could_be_made(lineage, "domain_dataset", "arxiv")
    shutil.move(home.root / "away", lineage.folder("domain_dataset", "arxiv"))


def test_loading_the_definitions_reads_records_alone(finished, tmp_path):
    """A corpus of a terabyte is not verified before its graph is shown."""
    experiment, home, _ = finished
    bare = MdelHome(tmp_path / "home")
    for record in (home.root / "pico").rglob("record.json"):
        copy = bare.root / record.relative_to(home.root)
        copy.parent.mkdir(parents=True)
        shutil.copy(record, copy)
    assert partitions(experiment, bare)["expert_model"] == PRESENT
