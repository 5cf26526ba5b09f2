"""``mdel schema``: the JSON Schema of experiments, for editors."""

import click


@click.command()
@click.option("--path", is_flag=True, help="Print the path of the file that is installed instead.")
def schema(*, path: bool) -> None:
    """Print the JSON Schema of experiments, from which editors complete and explain keys."""
    from mdel_assets.experiment.schema import SCHEMA_PATH, schema_text

    click.echo(SCHEMA_PATH if path else schema_text(), nl=path)
