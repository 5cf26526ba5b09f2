"""Show a user's mistake on the run's page as one sentence without stack traces.

Dagster shows an exception of a step between two stack traces, its own and the exception's. The
message of an `MdelError` is written for the reader of the run's page, so it is raised in a form
that Dagster shows without traces. Any other exception keeps its traces.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import dagster as dg
from dagster._core.definitions.decorators.op_decorator import DecoratedOpFunction
from dagster._core.errors import DagsterUserCodeProcessError
from dagster_shared.error import SerializableErrorInfo

from mdel_assets.errors import MdelError


def failing_in_words(assets: Iterable[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """Return the assets with steps that show only class and message of an `MdelError`."""
    found = list(assets)
    for asset in found:
        body = asset.op.compute_fn
        assert isinstance(body, DecoratedOpFunction)
        asset.op._compute_fn = DecoratedOpFunction(in_words(body.decorated_fn))
    return found


def in_words(body: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``body``, wrapped so that an `MdelError` shows only its class and message."""

    @functools.wraps(body)
    def step(*arguments: Any, **options: Any) -> Any:
        try:
            return body(*arguments, **options)
        except MdelError as error:
            raise _as_it_is(error) from error

    return step


def _as_it_is(error: MdelError) -> Exception:
    """Return an error of the same class that Dagster shows without stack traces."""
    name, module = type(error).__name__, type(error).__module__
    info = SerializableErrorInfo(f"{module}.{name}: {error}\n", stack=[], cls_name=name)
    kind: Any = type(name, (DagsterUserCodeProcessError, type(error)), {"__module__": module})
    shown: Exception = kind(str(error), user_code_process_error_infos=[info])
    return shown
