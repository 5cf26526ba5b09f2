"""``mdel tasks``: what models score on tasks of lm-evaluation-harness."""

import json
import shutil

import click

from mdel_assets.errors import TaskError
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome, experiment_name


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def tasks(*, as_json: bool) -> None:
    """Print what models score on tasks, beside their bits per byte."""
    from mdel_assets.tasks.comparison_text import comparison_as_json, comparison_text
    from mdel_assets.tasks.steps import TABLE_NAME, read_comparison, reported

    lineage = MdelHome.from_environment().lineage(load_experiment(experiment_name()))
    experiment = lineage.experiment
    if not experiment.evaluation.tasks:
        raise TaskError(
            f"The experiment '{experiment.name}' names no tasks. Name some in its YAML, such as "
            f"`evaluation: {{tasks: [lambada_openai]}}`, then `mdel run`."
        )
    if not reported(lineage):
        raise TaskError(f"No model of '{experiment.name}' has run its tasks yet: `mdel run`.")
    comparison = read_comparison(lineage)
    if as_json:
        content = {"experiment": experiment.name, **comparison_as_json(comparison)}
        click.echo(json.dumps(content, indent=2))
        return
    width = shutil.get_terminal_size((160, 24)).columns
    click.echo(comparison_text(comparison, width=width))
    if (made := lineage.artifact("task_matrix")).is_made():
        click.echo(f"\n{made.folder / TABLE_NAME}.png  the chart beside bits per byte")
