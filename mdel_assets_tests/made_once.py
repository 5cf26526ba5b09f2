"""What several processes of tests need and one makes: the others wait for it and take a copy."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock


def made_once(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any], *, copy: bool = True
) -> tuple[Path, Any]:
    """Return a copy of the folder that ``make`` has filled, and what ``make`` returned.

    The copy is this process's own, so its tests may change it. Without one, they must not.
    """
    parent = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        parent = parent.parent
    folder, result = parent / name, parent / f"made-once-{name}.pickle"
    with FileLock(parent / f"made-once-{name}.lock"):
        if not result.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            result.write_bytes(pickle.dumps(make(folder)))
    if not copy:
        return folder, None
    own = factory.mktemp("own") / name
    shutil.copytree(folder, own, symlinks=True)
    return own, pickle.loads(result.read_bytes())
