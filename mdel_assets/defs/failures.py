"""What a failed step says of a mistake: the sentence that names the remedy, and no stack trace.

Dagster shows an exception of a step between two stack traces, its own and the exception's. Our
errors (`MdelError`) are written for the person who reads the run's page, so they reach Dagster in
the one form that it shows as it is. Any other exception keeps its traces.
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
    """Return the assets, whose steps show of an `MdelError` its class and what it says."""
    found = list(assets)
    for asset in found:
        body = asset.op.compute_fn
        assert isinstance(body, DecoratedOpFunction)
        asset.op._compute_fn = DecoratedOpFunction(in_words(body.decorated_fn))
    return found


def in_words(body: Callable[..., Any]) -> Callable[..., Any]:
    """Return what does as ``body`` does, and shows of an `MdelError` its class and words alone."""

    @functools.wraps(body)
    def step(*arguments: Any, **options: Any) -> Any:
        try:
            return body(*arguments, **options)
        except MdelError as error:
            raise _as_it_is(error) from error

    return step


def _as_it_is(error: MdelError) -> Exception:
    """Return an error of the same class that Dagster shows without the way that it came."""
    name, module = type(error).__name__, type(error).__module__
    info = SerializableErrorInfo(f"{module}.{name}: {error}\n", stack=[], cls_name=name)
    kind: Any = type(name, (DagsterUserCodeProcessError, type(error)), {"__module__": module})
    shown: Exception = kind(str(error), user_code_process_error_infos=[info])
    return shown
