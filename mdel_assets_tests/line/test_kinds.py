"""One declaration for each kind of artifact: what follows from it, and what it has to keep to."""

import ast
import collections
import inspect
import json
from pathlib import Path
from typing import ClassVar

import dagster as dg
import pyarrow.parquet as pq
import pytest

from mdel_assets.data.kinds import absent_domains, domain_keys
from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.experiment.section import Section
from mdel_assets.kinds import KINDS
from mdel_assets.line.kind import Input, Kind, Task, Written
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.making import make_all, make_one
from mdel_assets.line.recorded_artifacts import record_paths, recorded_at
from mdel_assets.line.what_is_stale import what_is_stale
from mdel_assets.maintenance.forgetting import plan_forgetting
from mdel_assets_tests.conftest import pico_experiment
from mdel_assets_tests.line.test_golden_fingerprints import EXPERIMENTS, make_experiment


def test_names_places_and_families_are_of_one_kind_alone():
    places = [(kind.place.format(key="k"), kind.record.format(key="k")) for kind in KINDS]
    # Further replicates are of the family of what they repeat.
    families = [k.family for k in KINDS if k.family and not k.replicate_of]
    for told in ([kind.name for kind in KINDS], places, families):
        assert [one for one, count in collections.Counter(told).items() if count > 1] == []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_inputs_come_before_what_is_made_of_them(name):
    experiment = make_experiment(name)
    order = [kind.name for kind in KINDS]
    for kind in KINDS:
        if not kind.is_in(experiment):
            continue
        for key in kind.keys(experiment):
            for entry in kind.inputs(experiment, key):
                assert order.index(entry.kind) < order.index(kind.name)
                assert entry.key in KINDS[order.index(entry.kind)].keys(experiment)


def sections(root):
    """Return the classes of a section and of the sections inside it, with an example of each."""
    found = {}
    for name in type(root).model_fields:
        value = getattr(root, name)
        inside = value if isinstance(value, (list, tuple)) else [value]
        inside = list(value.values()) if isinstance(value, dict) else inside
        for one in inside:
            if isinstance(one, Section):
                found |= {type(one): one} | sections(one)
    return found


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_new_setting_at_its_default_changes_no_fingerprint(name):
    """The one rule of all sections: `added_later` says what came later."""
    for section, example in sections(make_experiment(name)).items():

        class Newer(section):
            added_later: ClassVar = section.added_later | {"news"}
            news: int = 3

        given = {field: getattr(example, field) for field in example.model_fields_set}
        assert Newer.model_construct(**given).made_of() == example.made_of(), section
        assert Newer.model_construct(**given, news=4).made_of() == example.made_of() | {"news": 4}


def test_kinds_take_all_settings_by_that_rule():
    for kind in KINDS:
        tree = ast.parse(Path(inspect.getfile(kind.inputs)).read_text("utf-8"))
        called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert "model_dump" not in called


# A kind of a user's own, declared as those of the package are.
def count_letters(task: Task) -> Written:
    dataset = task.lineage.folder("domain_dataset", task.key)
    texts = pq.read_table(dataset / "train.parquet", columns=["text"])["text"].to_pylist()
    counts = collections.Counter("".join(texts))
    (task.folder / "letters.json").write_text(json.dumps(counts, sort_keys=True))
    return Written(counts={"num_letters": sum(counts.values())})


def own_dataset(experiment, key):
    return [Input("domain_dataset", key)]


def mixture(lineage, key):
    return {"mixture": lineage.experiment.mixture.made_of()}


LETTERS = Kind(
    "letter_counts",
    place="letters/{key}",
    code_version="1",
    keys=domain_keys,
    absent=absent_domains,
    inputs=own_dataset,
    config=mixture,
    write=count_letters,
)


@pytest.fixture
def with_letters(corpus, home):
    def lineage_of(**changes):
        lineage = home.lineage(pico_experiment(corpus, **changes))
        registry = (*KINDS, LETTERS)
        return Lineage(lineage.experiment, root=lineage.root, cache=home.cache, registry=registry)

    lineage = lineage_of()
    for shard in lineage.keys("raw_pile_shard"):
        make_one(lineage, "raw_pile_shard", shard)
        make_one(lineage, "shard_documents", shard)
    make_all(lineage, "domain_dataset", lineage.keys("domain_dataset"))
    return lineage_of


def test_a_kind_of_ones_own_is_made_made_anew_and_forgotten(with_letters, home):
    lineage = with_letters()
    assert lineage.stale("letter_counts", "github").reason == "never made"
    records = make_all(lineage, "letter_counts", lineage.keys("letter_counts"))
    assert list(records) == ["github", "arxiv", "freelaw"]
    written = json.loads((lineage.folder("letter_counts", "arxiv") / "letters.json").read_text())
    assert records["arxiv"].counts["num_letters"] == sum(written.values()) > 1000
    assert "letter_counts" not in {entry.kind for entry in what_is_stale(lineage).found}
    # Other settings make it stale, and what it is made of with it.
    changed = with_letters(mixture={"general_ratio": 0.5, "seed": 0})
    assert changed.stale("letter_counts", "github").reason.startswith("changed: config mixture")
    # The doctor and forgetting find it by its record.
    recorded = {recorded_at(path).artifact.label for path in record_paths(lineage.root)}
    assert "letter_counts 'github'" in recorded
    derived = {
        entry.found.artifact.label for entry in plan_forgetting(home, lineage, "github").derived
    }
    assert "letter_counts 'github'" in derived


def test_a_kind_of_ones_own_is_an_asset_with_its_partitions_and_dependencies(with_letters):
    line = LineAssets(with_letters())

    @line.asset("letter_counts", group="data", icons={"json"})
    def letter_counts(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """How often each letter occurs in a domain's training text."""
        record = make_one(line.lineage, "letter_counts", context.partition_key)
        return dg.MaterializeResult(metadata=record.counts)

    (spec,) = letter_counts.specs
    assert spec.code_version == "1"
    assert [dep.asset_key.path for dep in spec.deps] == [["domain_dataset"]]
    assert list(spec.partitions_def.get_partition_keys()) == line.partitions.keys("domain_dataset")
    done = dg.materialize([letter_counts], partition_key="github")
    (made,) = done.asset_materializations_for_node("letter_counts")
    assert made.metadata["num_letters"].value > 1000
