"""``mdel schema``: the JSON Schema of experiments, for editors."""

import click


@click.command()
@click.option("--path", is_flag=True, help="Print the path of the file that is installed instead.")
@click.option("--page", is_flag=True, help="Print all settings as a page in Markdown instead.")
def schema(*, path: bool, page: bool) -> None:
    """Print the JSON Schema of experiments, from which editors complete and explain keys."""
    from mdel_assets.experiment.schema import SCHEMA_PATH, schema_text
    from mdel_assets.experiment.settings_page import settings_page

    text = settings_page() if page else schema_text()
    click.echo(SCHEMA_PATH if path else text, nl=path)
