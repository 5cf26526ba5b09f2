"""Parameter values in a recipe, and their value for one tensor.

A value is a scalar, a gradient (numbers spread evenly over depth and interpolated), or a list of
``{filter, value}``, in which the first filter that matches the tensor's name counts.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from mdel_assets.errors import unknown_name_message
from mdel_assets.store.tensor_names import matches_filter

_CONDITIONAL_KEYS = ("filter", "value")


def number_setting(value: Any) -> Any:
    """Return ``value`` as a float, a tuple of floats, or a tuple of ``{filter, value}``.

    Raises:
        ValueError: it is none of these, or a ``{filter, value}`` has another key.

    """
    if conditions := _conditions(value):
        return tuple(c | {"value": number_setting(c["value"])} for c in conditions)
    if isinstance(value, list | tuple) and value:
        return tuple(_number(entry) for entry in value)
    return _number(value)


def flag_setting(value: Any) -> Any:
    """Return ``value`` as a bool or a tuple of ``{filter, value}``; raise as `number_setting`."""
    if conditions := _conditions(value):
        return tuple(c | {"value": flag_setting(c["value"])} for c in conditions)
    if not isinstance(value, bool):
        seen = f"got {value!r}"
        raise ValueError(f"expected true, false or a list of {{filter, value}}, {seen}")  # noqa: TRY004
    return value


Number = Annotated[Any, BeforeValidator(number_setting)]
Flag = Annotated[Any, BeforeValidator(flag_setting)]


def value_for(setting: Any, *, name: str, depth: float) -> Any:
    """Return the value of ``setting`` for tensor ``name``; None if no filter matches."""
    if not isinstance(setting, tuple):
        return setting
    if not isinstance(setting[0], Mapping):
        place = depth * (len(setting) - 1)
        below = int(place)
        above = min(below + 1, len(setting) - 1)
        share = place - below
        return (1 - share) * setting[below] + share * setting[above]
    for condition in setting:
        if matches_filter(condition.get("filter") or "*", name):
            return value_for(condition["value"], name=name, depth=depth)
    return None


def numbers_in(setting: Any) -> Iterator[float]:
    """Yield every number in a setting, including the numbers of a gradient."""
    if isinstance(setting, Mapping):
        yield from numbers_in(setting["value"])
    elif isinstance(setting, tuple):
        for entry in setting:
            yield from numbers_in(entry)
    elif setting is not None:
        yield setting


def _number(value: Any) -> float:
    # YAML reads 1e-4, without a dot, as a string.
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise ValueError(
        f"expected a number, a list of numbers (a gradient over depth) or a list of "
        f"{{filter, value}}, got {value!r}"
    )


def _conditions(value: Any) -> list[dict[str, Any]]:
    """Return the conditions of a list of ``{filter, value}`` or of a single one, else nothing."""
    entries = [value] if isinstance(value, Mapping) else value
    if not isinstance(entries, list | tuple) or not any(isinstance(e, Mapping) for e in entries):
        return []
    for entry in entries:
        for key in entry if isinstance(entry, Mapping) else ():
            if key not in _CONDITIONAL_KEYS:
                raise ValueError(unknown_name_message("key", str(key), _CONDITIONAL_KEYS))
        if not isinstance(entry, Mapping) or "value" not in entry:
            raise ValueError(f"expected {{filter, value}}, got {entry!r}")
    return [dict(entry) for entry in entries]
