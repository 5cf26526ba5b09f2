"""A record of a table, for all kinds of table files."""

import dataclasses
from collections.abc import Sequence

from mdel_assets.data.json_lines import RejectReason
from mdel_assets.errors import ShardError


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One row: UTF-8 text, label and licence, or the reason why it is rejected.

    For a rejected row, ``text`` is the part of it that is kept.
    """

    text: bytes
    label: str
    license: str | None
    reject: RejectReason | None


def missing_column(name: str, path: str, columns: Sequence[str]) -> ShardError:
    """Return the error for a file that lacks the column named in the experiment."""
    return ShardError(
        f"{name} has no column '{path}'. Its columns: {', '.join(columns)}. "
        f"Correct source.text_field, source.domain_field or source.license_field."
    )
