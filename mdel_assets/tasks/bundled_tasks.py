"""The harness itself: whether it is installed, and the names of the tasks that it defines."""

import functools
import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mdel_assets.errors import install_extra

PACKAGE = "lm_eval"
NOT_INSTALLED = (
    "evaluation.tasks: lm-evaluation-harness is not installed. Install the extra: "
    f"{install_extra('tasks')}"
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


def likely_names() -> frozenset[str]:
    """Return the names that lines of the harness's YAML files give to tasks, groups and tags.

    Reading lines takes a second where parsing takes a quarter of a minute. A name that code or
    a list gives is not among them: ask `is_bundled`.
    """
    return frozenset(likely_files())


@functools.cache
def likely_files() -> Mapping[str, Sequence[Path]]:
    """Return the harness's YAML files that hold each of the `likely_names`, in order."""
    spec = importlib.util.find_spec(PACKAGE)
    found: dict[str, list[Path]] = {}
    if spec is None or spec.origin is None:
        return found
    folder = Path(spec.origin).parent / "tasks"
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".yaml", "") and path.is_file():
            for name in set(_NAMES.findall(path.read_text("utf-8", "replace"))) - {"null"}:
                found.setdefault(name, []).append(path)
    return found


def is_bundled(name: str) -> bool:
    """Whether the harness defines a task, a group or a tag called ``name``."""
    return name in likely_names() or name in _indexed_names()


@functools.cache
def _indexed_names() -> frozenset[str]:
    from lm_eval.tasks import TaskManager

    return frozenset(TaskManager().all_tasks)
