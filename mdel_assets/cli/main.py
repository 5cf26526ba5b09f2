"""``mdel``: the commands that Dagster's own command line lacks.

``mdel new`` writes a first experiment for a corpus, ``mdel schema`` prints what editors read.
``mdel check`` checks an experiment before it runs, and ``mdel plan`` says what a run would take.
``mdel run`` makes whatever is missing or stale.
``mdel status`` says what that would be and why. ``mdel ui`` starts the web UI. ``mdel backfill``
makes several partitions of one asset, ``mdel doctor`` finds and repairs what crashes leave behind.
``mdel matrix`` prints the perplexity matrix, ``mdel tasks`` what models score on tasks.
``mdel perplexity`` measures any model on any dataset.
``mdel map`` runs a family of experiments, and shows where branching pays.
``mdel generate`` continues a text with a model or an ensemble.
``mdel merge`` merges models outside the graph, ``mdel publish`` publishes, ``mdel forget`` takes a
domain back. ``mdel serve`` lets OpenAI's clients ask models and ensembles. ``mdel dg launch`` makes
single assets and partitions, as Dagster does it. ``mdel store`` lists what an object store holds.
``mdel completion`` lets shells complete all this.
"""

import json
import warnings
from typing import Literal

import click

from mdel_assets import __version__
from mdel_assets.cli.backfill import backfill
from mdel_assets.cli.check import check
from mdel_assets.cli.completion import completion
from mdel_assets.cli.dagster_commands import dagster, dg
from mdel_assets.cli.doctor import doctor
from mdel_assets.cli.family_map import family_map
from mdel_assets.cli.forget import forget
from mdel_assets.cli.generate import generate
from mdel_assets.cli.matrix import matrix
from mdel_assets.cli.new import new
from mdel_assets.cli.plan import plan
from mdel_assets.cli.publishing import merge, publish
from mdel_assets.cli.run import run
from mdel_assets.cli.schema import schema
from mdel_assets.cli.serve import serve
from mdel_assets.cli.status import status
from mdel_assets.cli.store import store
from mdel_assets.cli.tasks import tasks
from mdel_assets.cli.ui import ui
from mdel_assets.errors import MdelError
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.experiment.mistakes import validated
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.machine.console import show_log_lines, showing_progress
from mdel_assets.store.durable_files import explaining_full_disk


class _Commands(click.Group):
    """Shows an `MdelError`, or a full disk, as one message without a traceback."""

    def invoke(self, context: click.Context) -> object:
        try:
            place = MdelHome.from_environment().root
            with explaining_full_disk("the files of this command", place):
                return super().invoke(context)
        except MdelError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands)
@click.version_option(__version__)
def main() -> None:
    """MDEL assets. MDEL_EXPERIMENT names the experiment, MDEL_HOME the folder for everything."""
    show_log_lines()


@main.command()
def init() -> None:
    """Create MDEL_HOME, and the experiment's Dagster instance with its settings."""
    home = MdelHome.from_environment()
    experiment = load_experiment(experiment_name()).name
    warnings.simplefilter("ignore")
    from mdel_assets.defs.instance import open_instance

    open_instance(home, experiment).dispose()
    folder = home.dagster_home(experiment)
    click.echo(f"{home.root} is ready (Dagster's instance of '{experiment}': {folder})")


@main.command()
@click.option(
    "--model", required=True, help="A model folder, a Hub name, or sample://smollm2-135m."
)
@click.option("--dataset", required=True, help="A dataset folder or Hub name.")
@click.option(
    "--split", help="The split.  [default: the only one, else test, test_domain or validation]"
)
@click.option("--text-field", default="text", show_default=True, help="Dotted path of the text.")
@click.option("--max-length", default=1024, show_default=True, help="Context in tokens.")
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    help="New tokens that each later window scores.  [default: --max-length]",
)
@click.option(
    "--num-documents",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="The largest number of documents, drawn with a seed.",
)
@click.option("--prefix-token", type=click.Choice(["eos", "bos"]), default="eos", show_default=True)
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True
)
def perplexity(
    model: str,
    dataset: str,
    split: str | None,
    text_field: str,
    max_length: int,
    stride: int | None,
    num_documents: int,
    prefix_token: Literal["eos", "bos"],
    dtype: Literal["float32", "bfloat16"],
) -> None:
    """Measure one model on one dataset; print a table and append a line of JSON."""
    from mdel_assets.evaluation.one_off import measure_perplexity

    settings = {
        "max_length": max_length,
        "stride": stride,
        "prefix_token": prefix_token,
        "dtype": dtype,
    }
    origin = "The evaluation"
    evaluation = validated(Evaluation, settings, origin=origin, raises=click.UsageError)
    home = MdelHome.from_environment()
    with showing_progress():
        measured = measure_perplexity(
            model,
            dataset,
            split=split,
            text_field=text_field,
            num_documents=num_documents,
            evaluation=evaluation,
            cache=home.cache,
        )
    for name, value in measured.row.items():
        click.echo(f"{name:24} {value:,.6g}" if isinstance(value, float) else f"{name:24} {value}")
    if measured.num_documents_without_text:
        click.echo(f"{measured.num_documents_without_text} documents without text were left out")
    home.root.mkdir(parents=True, exist_ok=True)
    lines = home.root / "perplexity.jsonl"
    with lines.open("a", encoding="utf-8") as file:
        file.write(json.dumps(measured.row) + "\n")
    click.echo(f"appended to {lines}")


for _command in (
    *(backfill, check, completion, dagster, dg, doctor, family_map, forget, generate, matrix),
    *(merge, new, plan, publish, run, schema, serve, status, store, tasks, ui),
):
    main.add_command(_command)
