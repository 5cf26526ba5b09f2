"""``mdel``: the commands that Dagster's own command line lacks.

``mdel new`` writes a first experiment for a corpus, ``mdel schema`` prints what editors read.
``mdel check`` checks an experiment before it runs, and ``mdel plan`` says what a run would take.
``mdel run`` makes whatever is missing or stale.
``mdel status`` says what that would be and why. ``mdel ui`` starts the web UI. ``mdel backfill``
makes several partitions of one asset, ``mdel doctor`` finds and repairs what crashes leave behind.
``mdel matrix`` prints the perplexity matrix. ``mdel perplexity`` measures any model on any dataset.
``mdel generate`` continues a text with a model or an ensemble.
``mdel merge`` merges models outside the graph, ``mdel publish`` publishes, ``mdel forget`` takes a
domain back. ``mdel serve`` lets OpenAI's clients ask models and ensembles. ``mdel dg launch`` makes
single assets and partitions, as Dagster does it.
"""

import contextlib
import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import click

from mdel_assets import __version__
from mdel_assets.cli.backfill import backfill
from mdel_assets.cli.check import check
from mdel_assets.cli.dagster_commands import dagster, dg
from mdel_assets.cli.doctor import doctor
from mdel_assets.cli.forget import forget
from mdel_assets.cli.generate import generate
from mdel_assets.cli.new import new
from mdel_assets.cli.plan import plan, refuse_what_exceeds
from mdel_assets.cli.publishing import merge, publish
from mdel_assets.cli.schema import schema
from mdel_assets.cli.serve import serve
from mdel_assets.cli.ui import ui
from mdel_assets.errors import MdelError, unknown_name_message
from mdel_assets.experiment.experiment import load_experiment
from mdel_assets.experiment.fields import Evaluation
from mdel_assets.experiment.mistakes import validated
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.what_is_stale import what_is_stale
from mdel_assets.machine.console import show_log_lines, showing_progress
from mdel_assets.maintenance.experiment_checks import refuse_mistakes
from mdel_assets.store.durable_files import explaining_full_disk

if TYPE_CHECKING:
    from mdel_assets.defs.launch import RunOutcome, Stage


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
    "--workers",
    type=click.IntRange(min=1),
    default=os.cpu_count(),
    show_default="the number of cores",
    help="Processes that fetch shards and route their documents at the same time.",
)
@click.option("--until", metavar="ASSET", help="Stop after this asset, such as domain_dataset.")
@click.option(
    "--max-hours",
    type=click.FloatRange(min=0, min_open=True),
    help="Refuse to begin what takes longer, by its plan.",
)
@click.option("--max-disk", metavar="SIZE", help="Refuse to begin what needs more, such as 20GB.")
def run(workers: int, until: str | None, max_hours: float | None, max_disk: str | None) -> None:
    """Make everything that is missing or stale, from the shards to the perplexity matrix."""
    started = time.monotonic()
    experiment = load_experiment(experiment_name())
    home = MdelHome.from_environment()
    lineage = home.lineage(experiment)
    kinds = lineage.kinds()
    if until is not None and until not in kinds:
        raise click.UsageError(unknown_name_message("asset", until, kinds))
    refuse_mistakes(lineage)
    refuse_what_exceeds(lineage, until=until, max_hours=max_hours, max_disk=max_disk)
    click.echo(f"Experiment '{experiment.name}' in {home.root}")
    warnings.simplefilter("ignore")
    from mdel_assets.defs.instance import open_instance
    from mdel_assets.defs.launch import run_line

    failed: list[RunOutcome] = []
    num_made = num_waiting = 0
    with open_instance(home, experiment.name) as instance, _saying_how_to_go_on():
        for outcome in run_line(
            experiment,
            home,
            instance=instance,
            on_start=_show_start,
            on_stage=_show_stage,
            num_workers=workers,
            until=until,
        ):
            _show(outcome)
            num_made += outcome.state == "made"
            failed += [outcome] * (outcome.state == "failed")
            num_waiting += len(outcome.not_made) if outcome.state == "skipped" else 0
    elapsed = time.monotonic() - started
    if failed:
        raise click.ClickException(_first_cause(failed, num_waiting))
    done = f"{num_made} runs in {elapsed:.0f} s" if num_made else "Nothing to do: all is up to date"
    click.echo(f"{done}.\n")
    if until is None:
        _print_matrix(home)


def _first_cause(failed: "Sequence[RunOutcome]", num_waiting: int) -> str:
    """Return what failed and how much waits for it; the last line explains the first failure."""
    names = [f"{outcome.kind} {outcome.key}".strip() for outcome in failed]
    waiting = f"; {num_waiting} more wait for these" if num_waiting else ""
    return (
        f"{len(failed)} failed: {', '.join(names)}{waiting}.\n"
        f"The first to fail was {names[0]}: {failed[0].message}"
    )


@contextlib.contextmanager
def _saying_how_to_go_on() -> Iterator[None]:
    """Answer Ctrl-C with one line."""
    try:
        yield
    except KeyboardInterrupt:
        raise click.ClickException(
            "Stopped. Finished work is kept: run the same command again to continue."
        ) from None


@main.command()
def status() -> None:
    """List what is missing or stale, and why, and the domains that the corpus lacks."""
    lineage = MdelHome.from_environment().lineage(load_experiment(experiment_name()))
    refuse_mistakes(lineage)
    line = what_is_stale(lineage)
    for stale in line.found:
        click.echo(f"{stale.kind:20} {stale.key:28} {stale.reason}")
    if line.is_cut_off:
        click.echo("everything that depends on these is stale, too")
    if absent := lineage.absent_domains():
        click.echo(f"absent: the corpus has no training document of {', '.join(absent)}")
    num_stale = len(line.found)
    click.echo(f"{num_stale} stale" if num_stale else "Everything is up to date.")


@main.command()
def matrix() -> None:
    """Print the perplexity matrix."""
    _print_matrix(MdelHome.from_environment())


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
    *(backfill, check, dagster, dg, doctor, generate, merge, new, plan, publish),
    *(forget, schema, serve, ui),
):
    main.add_command(_command)


def _print_matrix(home: MdelHome) -> None:
    from mdel_assets.evaluation.matrix_markdown import matrix_text
    from mdel_assets.evaluation.steps import read_matrix

    lineage = home.lineage(load_experiment(experiment_name()))
    width = shutil.get_terminal_size((160, 24)).columns
    click.echo(matrix_text(read_matrix(lineage), width=width))
    reports = lineage.folder("perplexity_matrix")
    if record := lineage.artifact("ensemble_report").read_record():
        click.echo("\nExperts together, against the best single model (no model was run)\n")
        click.echo("\n".join(record.details["findings"]))
    click.echo(
        f"\nWhere to look next\n"
        f"  {reports}/perplexity.md   all splits, with perplexities\n"
        f"  {reports}/perplexity.png  the heatmap\n"
        f"{_ensemble_hint(lineage)}"
        f"  {lineage.root}/models  the models, for AutoModelForCausalLM.from_pretrained\n"
        f"  make ui   the graph with every chart, on http://127.0.0.1:3000"
    )


def _ensemble_hint(lineage: Lineage) -> str:
    if not lineage.keys("ensemble_report"):
        return ""
    reports = lineage.folder("perplexity_matrix")
    return f"  {reports}/ensemble.md     experts weighed together, beside single models\n"


def _show_stage(stage: "Stage") -> None:
    left = ""
    if stage.seconds_left:
        left = f"; trainings take about {_duration(stage.seconds_left)} more"
    click.echo(f"{stage.number}/{stage.num_stages} {stage.kind}: {stage.num_to_make} to make{left}")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _show_start(kind: str, key: str) -> None:
    if sys.stdout.isatty():
        click.echo(f"  ...       {kind} {key}\r", nl=False)


def _show(outcome: "RunOutcome") -> None:
    if outcome.state in ("up to date", "absent"):
        told = f": {outcome.message}" if outcome.message else ""
        click.echo(f"  {outcome.state:10}  {outcome.kind:18} {outcome.key}{told}")
        return
    if outcome.state == "skipped":
        click.echo(f"  skipped     {outcome.kind:18} {outcome.key:28} {outcome.message}")
        return
    click.echo(
        f"  {outcome.state:10}  {outcome.kind:18} {outcome.key:28} {outcome.elapsed_seconds:7.1f} s"
    )
    if outcome.message:
        click.echo(f"      {outcome.message}", err=True)
