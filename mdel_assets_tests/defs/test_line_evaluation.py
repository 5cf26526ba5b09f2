"""Evaluation at the end of the line: scores, reports, matrix and ensembles."""

import json
import shutil

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from mdel_assets.defs.graph import build_definitions
from mdel_assets.defs.launch import run_line
from mdel_assets.defs.partitions import range_tags
from mdel_assets.evaluation.reported import stale_cells
from mdel_assets.home import MdelHome
from mdel_assets_tests.conftest import forge, pico_experiment
from mdel_assets_tests.defs.finished_line import MODELS, materialize
from mdel_assets_tests.wandb_files import history, read_records


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_matrix_goes_to_weights_and_biases(finished, corpus, tmp_path):
    _, home, _ = finished
    copy = MdelHome(shutil.copytree(home.root, tmp_path / "home"))
    experiment = pico_experiment(corpus, tracking={"wandb_project": "mdel"})
    result = materialize(experiment, copy, "perplexity_matrix", None)
    assert result.success
    records = read_records(copy.root)
    (run,) = [record.run for record in records if record.HasField("run")]
    assert (run.run_group, run.job_type) == ("pico", "evaluation")
    logged = {key: value for entry in history(records) for key, value in entry.items()}
    assert logged["perplexity/nrows"] == len(MODELS) * 3 * 2
    assert logged["heatmap/format"] == "png"
    averages = pq.read_table(copy.root / "pico" / "reports" / "perplexity_averages.parquet")
    for row in averages.to_pylist():
        name = f"bits_per_byte/{row['split']}/{row['model']}"
        assert logged[name] == pytest.approx(row["macro_bits_per_byte"])


def test_report_rows_have_the_keys_of_the_contract(finished):
    _, home, _ = finished
    lines = (home.root / "pico" / "reports" / "perplexity" / "expert-arxiv.jsonl").read_text()
    for line in lines.splitlines():
        assert list(json.loads(line)) == [
            "model",
            "dataset",
            "split",
            "num_documents",
            "num_tokens",
            "num_bytes",
            "num_words",
            "nll_nats",
            "perplexity",
            "bits_per_byte",
            "byte_perplexity",
            "word_perplexity",
            "bits_per_byte_low",
            "bits_per_byte_high",
            "max_length",
            "model_fingerprint",
            "dataset_fingerprint",
        ]


def test_the_ensemble_report_holds_single_models_and_ensembles(finished):
    _, home, _ = finished
    reports = home.root / "pico" / "reports"
    table = pq.read_table(reports / "ensemble.parquet")
    models = set(table.column("model").to_pylist())
    assert set(MODELS) < models
    assert {"ensemble-uniform", "ensemble-posterior-top2", "ensemble-linear-top1"} < models
    assert None not in table.column("bits_per_byte").to_pylist()
    written = (reports / "ensemble.md").read_text()
    assert "`ensemble-posterior-all`" in written
    assert "| ensemble-random-split-posterior-all |" in written
    assert "| dense |" in written
    assert (reports / "ensemble.png").read_bytes().startswith(b"\x89PNG")
    assert (home.root / "pico" / "router" / "router.safetensors").stat().st_size > 0


def test_a_model_that_cannot_be_scored_is_named_and_the_others_stand(finished, tmp_path):
    experiment, home, _ = finished
    copy = MdelHome(shutil.copytree(home.root, tmp_path / "home"))
    lineage = copy.lineage(experiment)
    weights = lineage.folder("expert_model", "arxiv") / "model.safetensors"
    tensors = {name: tensor * float("nan") for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    forge(lineage.artifact("expert_model", "arxiv"))
    for model in ("expert-github", "expert-arxiv"):
        shutil.rmtree(lineage.folder("token_scores", model))
    with dg.DagsterInstance.ephemeral() as instance:
        outcomes = list(run_line(experiment, copy, instance=instance))
        made = instance.get_materialized_partitions(dg.AssetKey("token_scores"))
    (failure,) = [o for o in outcomes if o.kind == "token_scores" and o.state == "failed"]
    assert failure.message.startswith("expert-arxiv: The model gives probabilities")
    assert made == {"expert-github"}
    assert lineage.current("token_scores", "expert-github")
    assert lineage.artifact("token_scores", "expert-arxiv").read_record() is None


def test_a_model_made_anew_marks_its_cells_and_a_model_without_a_report_is_missing(
    finished, tmp_path
):
    experiment, home, _ = finished
    copy = MdelHome(shutil.copytree(home.root, tmp_path / "home"))
    lineage = copy.lineage(experiment)
    assert stale_cells(lineage) == []
    forge(lineage.artifact("expert_model", "arxiv"), fingerprint="another")
    lineage.artifact("perplexity_report", "expert-github").record_path.unlink()
    result = materialize(experiment, copy, "perplexity_matrix", None)
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    assert check.metadata["missing_cells"].value == ["expert-github has no report"]
    table = pq.read_table(copy.root / "pico" / "reports" / "perplexity.parquet").to_pylist()
    assert {row["model"] for row in table} == set(MODELS) - {"expert-github"}
    assert {row["model"] for row in table if row["is_stale"]} == {"expert-arxiv"}
    assert "†" in (copy.root / "pico" / "reports" / "perplexity.md").read_text()
    (event,) = result.asset_materializations_for_node("perplexity_matrix")
    stale = {
        (row.data["asset"], row.data["partition"]): row.data["reason"]
        for row in event.metadata["what_is_stale"].records
    }
    assert stale["perplexity_report", "expert-github"] == "never made"
    assert stale["merged_model", "mean-all"] == "changed: expert_model 'arxiv'"


def test_a_report_warns_of_a_model_that_became_worse(finished, tmp_path):
    experiment, home, _ = finished
    copy = MdelHome(shutil.copytree(home.root, tmp_path / "home"))
    lineage = copy.lineage(experiment)
    scores = lineage.artifact("token_scores", "expert-arxiv")
    table = pq.read_table(scores.folder / "documents.parquet")
    worse = pa.array([1.1 * nll for nll in table.column("nll_nats").to_pylist()])
    table = table.set_column(table.column_names.index("nll_nats"), "nll_nats", worse)
    pq.write_table(table, scores.folder / "documents.parquet")
    forge(scores, fingerprint="another")
    result = materialize(experiment, copy, "perplexity_report", "expert-arxiv")
    checks = {c.check_name: c for c in result.get_asset_check_evaluations()}
    # Six documents of each domain, and what there is of all others.
    shown = checks["no_worse_than_before"]
    assert "too few documents to judge" in shown.description
    rows = shown.metadata["changes_since_the_last_report"].records
    assert all(row.data["change"] > 0.1 for row in rows)
    again = materialize(experiment, copy, "perplexity_report", "expert-arxiv")
    assert all(check.passed for check in again.get_asset_check_evaluations())


def test_a_report_that_cannot_be_made_hides_no_other(finished, tmp_path):
    experiment, home, _ = finished
    copy = MdelHome(shutil.copytree(home.root, tmp_path / "home"))
    lineage = copy.lineage(experiment)
    (lineage.folder("token_scores", "dense") / "documents.parquet").unlink()
    kind, tags = "perplexity_report", range_tags(["seed", "dense-one", "dense", "expert-github"])
    asset = dg.AssetKey(kind)
    job = build_definitions(experiment, copy).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            instance=instance, asset_selection=[asset], tags=tags, raise_on_error=False
        )
        shown = instance.get_materialized_partitions(asset)
    assert shown == {"seed", "dense-one", "expert-github"}
    (failed,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    assert "dense: token_scores 'dense' is damaged" in failed.step_failure_data.error.message


def test_a_doubtful_figure_is_warned_of_and_used_all_the_same(finished, tmp_path):
    """The same scores give the same figure again, so barring it would bar it for good."""
    experiment, home, _ = finished
    copy = MdelHome(shutil.copytree(home.root, tmp_path / "home"))
    report = copy.lineage(experiment).artifact("perplexity_report", "seed")
    rows = report.require().details["rows"]
    forge(report, details={"rows": [{**rows[0], "perplexity": 0.5}, *rows[1:]]})
    result = materialize(experiment, copy, "perplexity_report", "seed")
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    doubtful = checks["figures_are_consistent"]
    assert doubtful.metadata["doubtful"].value == [f"seed: {rows[0]['dataset']}/{rows[0]['split']}"]
    assert doubtful.severity == dg.AssetCheckSeverity.WARN
    # A check that is declared as blocking would keep `follow_inputs` from making the matrix.
    assert not doubtful.blocking
