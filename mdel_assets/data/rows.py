"""A record of a table, whatever kind of file the table is, and where its fields stand."""

import dataclasses
from collections.abc import Sequence

from mdel_assets.data.json_lines import RejectReason
from mdel_assets.errors import ShardError


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One row: UTF-8 text, label and licence, or the reason why it is no document.

    Of a rejected row ``text`` is what is kept of it.
    """

    text: bytes
    label: str
    license: str | None
    reject: RejectReason | None


def missing_column(name: str, path: str, columns: Sequence[str]) -> ShardError:
    """Return the error of a file that lacks the column that the experiment names."""
    return ShardError(
        f"{name} has no column '{path}'. Its columns: {', '.join(columns)}. "
        f"Correct source.text_field, source.domain_field or source.license_field."
    )
