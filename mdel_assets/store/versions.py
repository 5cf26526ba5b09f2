"""The versions that a record holds."""

import contextlib
import platform
from importlib.metadata import PackageNotFoundError, version

_VERSIONED = (
    "mdel-assets",
    "torch",
    "transformers",
    "tokenizers",
    "pyarrow",
    "numpy",
    "scikit-learn",
)


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that shape artifacts, and Python's."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
