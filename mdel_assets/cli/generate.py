"""``mdel generate``: a text continued by a model or an ensemble of the experiment."""

import sys
import unicodedata
from typing import TYPE_CHECKING

import click

from mdel_assets.cli.completion import complete_domain, complete_speaker
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome, experiment_name

if TYPE_CHECKING:
    from mdel_assets.generation.continuation import Continuation


@click.command()
@click.argument("model", shell_complete=complete_speaker)
@click.option("--prompt", help="The text to continue.  [default: standard input]")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=128, show_default=True)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0.0),
    default=1.0,
    show_default=True,
    help="0 takes the likeliest token each time.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(min=0.0, max=1.0, min_open=True),
    default=1.0,
    show_default=True,
    help="Draw from the likeliest tokens that make up this share.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Random seed; another seed gives another text.",
)
@click.option(
    "--domain",
    shell_complete=complete_domain,
    help="Where the prompt is from, for ensembles that weigh by it.",
)
@click.option(
    "--show-weights", is_flag=True, help="Say which experts contributed, on standard error."
)
def generate(
    model: str,
    prompt: str | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    domain: str | None,
    show_weights: bool,  # noqa: FBT001
) -> None:
    """Continue a text with MODEL: seed, dense, expert-DOMAIN, merged-RECIPE, ensemble-..., as made.

    An ensemble has its name from the report, such as ensemble-posterior-top2.
    """
    from mdel_assets.generation.continuation import Continuation
    from mdel_assets.generation.speakers import Speakers

    continuation = None
    try:
        text = _standard_input() if prompt is None else prompt
        lineage = MdelHome.from_environment().lineage(load_experiment(experiment_name()))
        continuation = Continuation(
            Speakers(lineage).load(model),
            text,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            domain=domain,
        )
        for piece in continuation:
            click.echo(_printable(piece), nl=False)
            sys.stdout.flush()
    except KeyboardInterrupt:
        count = len(continuation.tokens) if continuation else 0
        click.echo()
        raise click.ClickException(f"Stopped after {count} token{'s' * (count != 1)}.") from None
    click.echo()
    if continuation.ended_by == "context":
        limit = continuation.speaker.context_length
        click.echo(f"The model's context of {limit} tokens is full.", err=True)
    if show_weights:
        click.echo("\n" + _weights_table(continuation), err=True)


def _standard_input() -> str:
    stream = sys.stdin.buffer
    if stream.isatty():
        raise click.UsageError("Give --prompt, or a text on standard input.")
    try:
        return stream.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"Standard input is no UTF-8: {error}.") from error


def _printable(text: str) -> str:
    """Return text without characters that would steer a terminal; in a file it stays as it is."""
    if not sys.stdout.isatty():
        return text
    kept = "\n\t"
    return "".join(c if c in kept or unicodedata.category(c) != "Cc" else "�" for c in text)


def _weights_table(continuation: "Continuation") -> str:
    """Return a line for each expert that spoke, the heaviest first."""
    means, led = continuation.mean_weights(), continuation.num_led()
    spoke = sorted((name for name in means if means[name] > 0), key=lambda name: -means[name])
    width = max([len(name) for name in spoke], default=0)
    lines = [
        f"{name:{width}}  {means[name]:10.3f}  {led[name]:6} of {len(continuation.tokens)} tokens"
        for name in spoke
    ]
    return "\n".join([f"{'':{width}}  mean weight  heaviest at", *lines])
