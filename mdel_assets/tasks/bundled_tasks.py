"""The harness itself: whether it is installed, and the names of the tasks that it defines."""

import functools
import importlib.metadata
import importlib.util
import re
from pathlib import Path

PACKAGE = "lm_eval"
NOT_INSTALLED = (
    "evaluation.tasks: lm-evaluation-harness is not installed. Install the extra: "
    "pip install 'mdel-assets[tasks]'"
)
_NAMES = re.compile(
    r"""^(?:task|group|tag):[ ]*["']?([^\s"'#\[]+)["']?[ ]*(?:#.*)?$""", re.MULTILINE
)


def harness_version() -> str | None:
    """Return the version of lm-evaluation-harness; None where it is not installed."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def likely_names() -> frozenset[str]:
    """Return the names that lines of the harness's YAML files give to tasks, groups and tags.

    Reading lines takes a second where parsing takes a quarter of a minute. A name that code or
    a list gives is not among them: ask `is_bundled`.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return frozenset()
    folder = Path(spec.origin).parent / "tasks"
    files = (path for path in folder.rglob("*") if path.suffix in (".yaml", "") and path.is_file())
    return frozenset(
        name for path in files for name in _NAMES.findall(path.read_text("utf-8", "replace"))
    ) - {"null"}


def is_bundled(name: str) -> bool:
    """Whether the harness defines a task, a group or a tag called ``name``."""
    return name in likely_names() or name in _indexed_names()


@functools.cache
def _indexed_names() -> frozenset[str]:
    from lm_eval.tasks import TaskManager

    return frozenset(TaskManager().all_tasks)
