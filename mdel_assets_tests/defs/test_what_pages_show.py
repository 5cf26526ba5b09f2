"""What the web UI has to show of every asset: words, owners, kinds, columns, rows, links."""

import dataclasses
import json
import re

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdel_assets.defs import columns
from mdel_assets.defs.data import evaluation_is_uncontaminated
from mdel_assets.defs.evaluation_checks import no_worse_than_before
from mdel_assets.defs.graph import build_definitions
from mdel_assets.defs.metadata import link, model_address, shard_address
from mdel_assets.evaluation.regression import Change
from mdel_assets.evaluation.sweep import SweepEntry, write_sweep
from mdel_assets.experiment.loading import bundled_experiments, load_experiment
from mdel_assets.home import MdelHome
from mdel_assets.merging.trials import Trial
from mdel_assets.scoring.estimates import Estimate
from mdel_assets_tests.conftest import PICO, pico_experiment
from mdel_assets_tests.defs.finished_line import materialize
from mdel_assets_tests.defs.test_line_search import MERGES
from mdel_assets_tests.defs.test_variants import VARIANTS

# From left to right in the graph: nothing is made from what stands further to the right.
GROUPS = ["data", "training", "merging", "evaluation", "publishing"]
SENTENCE = re.compile(r"[A-Z`].{20,}\.", re.DOTALL)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def pico_with_all(corpus):
    """Return the pico experiment with every asset that an experiment can ask for."""
    references = {"other": {"path": str(corpus)}}
    evaluation = PICO["evaluation"] | {"references": references}
    return pico_experiment(corpus, merges=MERGES, variants=VARIANTS, evaluation=evaluation)


@pytest.fixture(params=["pico with all", *bundled_experiments()])
def definitions(request, corpus, tmp_path):
    with_all = request.param == "pico with all"
    experiment = pico_with_all(corpus) if with_all else load_experiment(request.param)
    return build_definitions(experiment, MdelHome(tmp_path))


def test_every_asset_says_what_it_is_whose_and_of_which_kind_and_version(definitions):
    specs = definitions.resolve_all_asset_specs()
    assert len(specs) >= 12
    for spec in specs:
        name = spec.key.to_user_string()
        assert SENTENCE.fullmatch(spec.description or ""), name
        assert spec.kinds, name
        assert spec.owners, name
        assert spec.code_version, name
        assert spec.group_name in GROUPS, name


def test_groups_stand_in_the_order_of_the_line(definitions):
    specs = {spec.key: spec for spec in definitions.resolve_all_asset_specs()}
    for spec in specs.values():
        for dep in spec.deps:
            before = GROUPS.index(specs[dep.asset_key].group_name)
            assert before <= GROUPS.index(spec.group_name), (dep.asset_key, spec.key)


def test_every_table_names_and_describes_its_columns(definitions):
    tables = [
        spec for spec in definitions.resolve_all_asset_specs() if spec.kinds & {"parquet", "json"}
    ]
    assert len(tables) >= 6
    for spec in tables:
        is_data = spec.group_name == "data"
        shown = spec.metadata["dagster/column_schema" if is_data else "columns"].columns
        assert shown, spec.key
        assert all(column.description and column.type for column in shown), spec.key


def test_every_check_says_what_it_looks_at(definitions):
    checks = list(definitions.resolve_asset_graph().asset_check_keys)
    assert len(checks) >= 10
    graph = definitions.resolve_asset_graph()
    for key in checks:
        assert SENTENCE.fullmatch(graph.get_check_spec(key).description or ""), key


def shown_type(kind):
    """Return an Arrow type as the pages call it."""
    if pa.types.is_list(kind):
        return f"list<{shown_type(kind.value_type)}>"
    for is_kind, name in (
        (pa.types.is_string, "string"),
        (pa.types.is_boolean, "bool"),
        (pa.types.is_integer, "int"),
        (pa.types.is_floating, "float"),
    ):
        if is_kind(kind):
            return name
    raise AssertionError(kind)


def shown_columns(schema):
    return {column.name: column.type for column in schema.columns}


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        (columns.SHARD_DOCUMENTS, "documents/00/arxiv.parquet"),
        (columns.DOMAIN_DATASET, "datasets/arxiv/train.parquet"),
        (columns.TOKEN_SCORES, "scores/seed/documents.parquet"),
        (columns.PERPLEXITY_MATRIX, "reports/perplexity.parquet"),
        (columns.ENSEMBLE_REPORT, "reports/ensemble.parquet"),
        (columns.LAYER_DIFFERENCES, "differences/arxiv/differences.parquet"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_columns_that_are_shown_are_those_of_the_file(finished, schema, path):
    stored = pq.read_schema(finished[1].root / "pico" / path)
    expected = {field.name: shown_type(field.type) for field in stored}
    assert shown_columns(schema) == expected


def test_the_columns_of_reports_sweeps_and_trials_are_those_of_their_rows(finished, tmp_path):
    lines = finished[1].root / "pico" / "reports" / "perplexity" / "seed.jsonl"
    row = json.loads(lines.read_text().splitlines()[0])
    kinds = {str: "string", int: "int", float: "float"}
    report = shown_columns(columns.PERPLEXITY_REPORT)
    assert report == {name: kinds[type(value)] for name, value in row.items()}
    change = Estimate(-0.1, -0.2, 0.0, 16)
    write_sweep([SweepEntry("expert-arxiv", "arxiv", 10, 20, {"test": change})], tmp_path)
    stored = pq.read_schema(tmp_path / "sweep.parquet")
    swept = {field.name: shown_type(field.type) for field in stored}
    assert shown_columns(columns.SWEEP_REPORT) == swept
    trials = {field.name for field in dataclasses.fields(Trial)}
    assert set(shown_columns(columns.SEARCH_TRIALS)) == trials


@pytest.mark.in_use
@pytest.mark.parametrize(
    ("asset", "key"),
    [
        ("raw_pile_shard", "00"),
        ("shard_documents", "00"),
        ("domain_dataset", "arxiv"),
        ("token_scores", "seed"),
        ("perplexity_report", "seed"),
        ("perplexity_matrix", None),
        ("ensemble_report", None),
    ],
)
def test_every_check_says_in_a_sentence_what_it_found_and_rounds_its_figures(finished, asset, key):
    experiment, home, _ = finished
    checks = materialize(experiment, home, asset, key).get_asset_check_evaluations()
    assert checks
    for check in checks:
        assert SENTENCE.fullmatch(check.description or ""), (check.check_name, check.description)
        assert not re.search(r"\d\.\d{5}", check.description)
        for value in check.metadata.values():
            if isinstance(value, dg.FloatMetadataValue):
                assert value.value == round(value.value, 4)


@pytest.mark.in_use
def test_a_check_that_warns_says_what_was_found_and_what_to_do(finished):
    experiment, home, _ = finished
    lineage = home.lineage(experiment)
    record = lineage.artifact("domain_dataset", "arxiv").require()
    found = {"num_documents": 16, "num_contaminated_documents": 11}
    found |= {"num_shared_shingles": 5, "num_shingles": 50}
    contamination = record.counts["contamination"] | {"test_domain": found}
    dirty = dataclasses.replace(record, counts=record.counts | {"contamination": contamination})
    check = evaluation_is_uncontaminated({"arxiv": dirty})
    assert not check.passed
    assert (
        "11 of 16 documents of arxiv/test_domain (69 %) share 13 consecutive words"
        in check.description
    )
    assert "Remove near duplicates from the corpus" in check.description
    worse = [Change(0.123456, 0.1, 0.15, number, "github", "test") for number in (6, 16)]
    few, enough = (no_worse_than_before({"seed": [change]}) for change in worse)
    assert few.passed
    assert "In 1 of 1 cells there are too few documents to judge." in few.description
    assert not enough.passed
    assert "seed on github/test (+0.1235)" in enough.description


@pytest.mark.parametrize(
    ("asset", "key", "path"),
    [
        ("shard_documents", "00", "documents/00/*.parquet"),
        ("domain_dataset", "arxiv", "datasets/arxiv/*.parquet"),
        ("token_scores", "seed", "scores/seed/documents.parquet"),
        ("perplexity_matrix", None, "reports/perplexity.parquet"),
        ("ensemble_report", None, "reports/ensemble.parquet"),
        ("layer_differences", "arxiv", "differences/arxiv/differences.parquet"),
    ],
)
def test_the_rows_that_are_shown_are_those_of_the_files(finished, asset, key, path):
    experiment, home, _ = finished
    (event,) = materialize(experiment, home, asset, key).asset_materializations_for_node(asset)
    stored = [
        pq.read_metadata(file).num_rows
        for file in (home.root / "pico").glob(path)
        if file.name != "rejects.parquet"
    ]
    assert sum(stored) > 0
    assert event.metadata["dagster/row_count"].value == sum(stored)
    assert isinstance(event.metadata["path"], dg.PathMetadataValue)


def test_a_report_shows_how_many_rows_it_has(finished):
    experiment, home, _ = finished
    result = materialize(experiment, home, "perplexity_report", "seed")
    (event,) = result.asset_materializations_for_node("perplexity_report")
    lines = home.root / "pico" / "reports" / "perplexity" / "seed.jsonl"
    assert event.metadata["dagster/row_count"].value == len(lines.read_text().splitlines())


def test_the_verdict_fits_a_page_that_a_long_path_makes_wider_than_the_window(finished):
    experiment, home, _ = finished
    done = materialize(experiment, home, "experiment_report", None)
    (event,) = done.asset_materializations_for_node("experiment_report")
    shown = event.metadata["verdict"].value
    # A window of 1280 pixels shows 42 characters of a value.
    assert max(map(len, (line.rstrip() for line in shown.splitlines()))) <= 42
    record = home.lineage(experiment).artifact("experiment_report").require()
    paragraphs = [part.replace("  \n", " ") for part in shown.split("\n\n")]
    assert paragraphs == record.details["verdict"]


def test_links_lead_to_the_commit_that_something_was_taken_from(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    model = model_address({"path": "EleutherAI/pythia-1b", "commit": COMMIT})
    assert model == f"https://huggingface.co/EleutherAI/pythia-1b/tree/{COMMIT}"
    assert model_address({"path": "/models/mine", "commit": None}) is None
    shard = shard_address("hf://datasets/owner/pile/train/01.jsonl.zst", commit=COMMIT)
    assert shard == f"https://huggingface.co/datasets/owner/pile/blob/{COMMIT}/train/01.jsonl.zst"
    assert link("hub", model) == {"hub": dg.MetadataValue.url(model)}
    assert link("source", shard_address("/corpus/01.jsonl.zst", commit=None)) == {}
    assert link("wandb", None) == {}


@pytest.mark.in_use
@pytest.mark.parametrize(
    ("asset", "key", "first"),
    [
        ("shard_documents", "00", ["text_by_domain", "domains"]),
        ("domain_dataset", "arxiv", ["too_few_held_out", "splits"]),
        ("seed_model", None, ["validation_loss", "loss_curve"]),
        ("expert_model", "arxiv", ["validation_losses", "loss_curve"]),
        ("layer_differences", "arxiv", ["changes", "cosines"]),
        ("perplexity_report", "seed", ["bits_per_byte", "perplexity"]),
        ("perplexity_matrix", None, ["findings", "heatmap"]),
        ("ensemble_report", None, ["findings", "at_a_glance"]),
        ("experiment_report", None, ["verdict", "report"]),
    ],
)
def test_what_matters_comes_first_and_a_reports_columns_stand_below(finished, asset, key, first):
    experiment, home, _ = finished
    (event,) = materialize(experiment, home, asset, key).asset_materializations_for_node(asset)
    assert list(event.metadata)[:3] == ["state", *first]
    graph = build_definitions(experiment, home).resolve_asset_graph()
    above = "dagster/column_schema" in graph.get(event.asset_key).metadata
    assert above == (asset in ("shard_documents", "domain_dataset"))
