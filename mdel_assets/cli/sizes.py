"""Sizes as options of commands take them."""

import click

from mdel_assets.planning.in_words import parsed_size


def to_bytes(
    context: click.Context, parameter: click.Parameter, value: str | None, *, kilo: int = 1000
) -> float | None:
    """Return an option's size in bytes; units are powers of ``kilo``.

    Raises:
        click.BadParameter: it is no size, or none above zero.

    """
    if value is None:
        return None
    try:
        size = parsed_size(value, kilo=kilo)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error
    if size < 1:
        raise click.BadParameter(f"'{value}' is less than a byte.", context, parameter)
    return size
