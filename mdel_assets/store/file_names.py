"""File names with non-ASCII letters, which the process's locale may not support."""

import sys

from mdel_assets.errors import ExperimentError


def require_writable_name(name: str, *, what: str) -> str:
    """Return ``name``, unless this process would write it as other bytes than UTF-8.

    Under LANG=C Python takes UTF-8 for names; under a locale of another encoding it does not, and
    then looks for files that nobody has.

    Raises:
        ExperimentError: the message says which setting makes names UTF-8.

    """
    encoding = sys.getfilesystemencoding()
    if encoding.lower() != "utf-8" and not name.isascii():
        raise ExperimentError(
            f"{what} {name!a} has non-ASCII letters, and this process's file names are in "
            f"{encoding}, not in UTF-8. Set PYTHONUTF8=1 or LC_ALL=C.UTF-8."
        )
    return name
