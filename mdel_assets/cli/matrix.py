"""``mdel matrix``: the perplexity matrix, as a table or as JSON."""

import json
import shutil

import click

from mdel_assets.evaluation.ensemble_record import EnsembleRecord
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.line.lineage import Lineage
from mdel_assets.reporting.steps import REPORT_NAME


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, of all splits, instead of text.")
def matrix(*, as_json: bool) -> None:
    """Print the perplexity matrix."""
    lineage = MdelHome.from_environment().lineage(load_experiment(experiment_name()))
    if not as_json:
        print_matrix(lineage)
        return
    from mdel_assets.evaluation.matrix_json import matrix_as_json
    from mdel_assets.evaluation.steps import read_matrix

    content = {"experiment": lineage.experiment.name, **matrix_as_json(read_matrix(lineage))}
    content["ensemble_findings"] = _ensemble_findings(lineage)
    click.echo(json.dumps(content, indent=2))


def print_matrix(lineage: Lineage) -> None:
    """Print the matrix's first split, what it says, and where more is to be found."""
    from mdel_assets.evaluation.matrix_markdown import matrix_text
    from mdel_assets.evaluation.steps import read_matrix

    width = shutil.get_terminal_size((160, 24)).columns
    click.echo(matrix_text(read_matrix(lineage), width=width))
    reports = lineage.required("perplexity_matrix")
    if told := _ensemble_findings(lineage):
        click.echo("\nExperts together, against the best single model (no model was run)\n")
        click.echo("\n".join(told))
    click.echo(
        f"\nWhere to look next\n"
        f"{_report_hint(lineage)}"
        f"  {reports}/perplexity.md   all splits, with perplexities\n"
        f"  {reports}/perplexity.png  the heatmap\n"
        f"{_ensemble_hint(lineage)}"
        f"  {lineage.root}/models  the models, for AutoModelForCausalLM.from_pretrained\n"
        f"  make ui   the graph with every chart, on http://127.0.0.1:3000"
    )


def _ensemble_findings(lineage: Lineage) -> list[str]:
    record = lineage.artifact("ensemble_report").read_record()
    return list(EnsembleRecord.of(record).findings) if record else []


def _report_hint(lineage: Lineage) -> str:
    report = lineage.artifact("experiment_report")
    if not report.record_path.exists():
        return ""
    return f"  {report.folder / REPORT_NAME}     everything on one page: open it in a browser\n"


def _ensemble_hint(lineage: Lineage) -> str:
    if not lineage.keys("ensemble_report"):
        return ""
    reports = lineage.folder("perplexity_matrix")
    return f"  {reports}/ensemble.md     experts weighed together, beside single models\n"
