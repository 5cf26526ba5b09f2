"""Mistakes in an experiment: pydantic's errors as plain sentences with their places.

`all_mistakes` continues after the first mistake: it removes the refused value and validates again,
until nothing is refused.
"""

import copy
import difflib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from mdel_assets.errors import ExperimentError, listed, unknown_name_message

_NUM_ROUNDS = 20
_SHOWN_CHARACTERS = 60
_KINDS = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping of keys",
    "model": "a mapping of keys",
    "none": "nothing",
}
_SENTENCES = {
    "missing": "is required",
    "finite_number": "expected a finite number",
    "int_from_float": "expected a whole number",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected {ge} or more",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected {le} or less",
    "int_parsing_size": "expected a smaller number",
    "string_pattern_mismatch": "expected text of the form {pattern}",
    "string_too_short": "expected some text",
    "string_too_long": "expected {max_length} characters or fewer",
    "too_short": "expected at least {min_length} entry",
    "too_long": "expected {max_length} entries or fewer",
    "invalid_key": "a key has to be text: put it in quotes",
}
M = TypeVar("M", bound=BaseModel)


def all_mistakes(
    model: type[M],
    content: Mapping[Any, Any],
    *,
    stand_ins: Mapping[str, Any],
    entries: Sequence[str] = (),
) -> tuple[M | None, dict[str, str]]:
    """Return the ``model`` made of the valid part of ``content``, and all mistakes by place.

    Wrong values are left out; in the sections ``entries``, the whole entry. ``stand_ins`` has
    values, by dotted place, for what cannot be left out.
    """
    usable = copy.deepcopy(dict(content))
    found: dict[str, str] = {}
    for number in range(_NUM_ROUNDS):
        try:
            return model.model_validate(usable), found
        except ValidationError as error:
            for problem in _own_problems(error):
                place, sentence = in_words(problem, model)
                is_missing = problem["type"] == "missing"
                # A value reported as missing later was removed here.
                if not (is_missing and number):
                    found.setdefault(place, sentence)
                if is_missing and place in stand_ins:
                    _put(usable, place, stand_ins[place])
                else:
                    path = problem["loc"]
                    _take_out(usable, path[:2] if path and path[0] in entries else path)
    return None, found


def validated(
    model: type[M],
    content: Mapping[str, Any],
    *,
    origin: str,
    raises: Callable[[str], Exception] = ExperimentError,
) -> M:
    """Return the ``model`` that ``content`` makes.

    Raises:
        Exception: ``raises`` of a message that begins with ``origin`` and names every mistake.

    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise raises(f"{origin}{listed(sentences(error, model))}") from error


def sentences(
    error: ValidationError, model: type[BaseModel], *, within: Sequence[str] = ()
) -> list[str]:
    """Return one sentence for each mistake in the input of ``model``.

    ``within`` is the place of the input in the YAML.
    """
    found: dict[str, str] = {}
    for problem in _own_problems(error):
        found.setdefault(*in_words(problem, model, within=within))
    return list(found.values())


def _own_problems(error: ValidationError) -> list[ErrorDetails]:
    """Return the problems, except lists that are too short only because entries are wrong."""
    return [
        problem
        for problem in error.errors()
        if problem["type"] != "too_short" or len(problem["input"]) < problem["ctx"]["min_length"]
    ]


def in_words(
    problem: ErrorDetails, model: type[BaseModel], *, within: Sequence[str] = ()
) -> tuple[str, str]:
    """Return a mistake's dotted place, and a sentence about it that begins with the place."""
    parts = [str(part) for part in problem["loc"] if part != "[key]"]
    if problem["type"] == "extra_forbidden":
        *section, key = parts
        section, known = _known_keys(section, model)
        place, told = ".".join([*within, *section]), unknown_name_message("key", key, known)
        return f"{place}.{key}", f"{place}: {told}" if place else told
    path, _ = _known_keys(parts, model)
    place = ".".join([*within, *path])
    message = _sentence(problem)
    return place or message, f"{place}: {message}" if place else message


def _sentence(problem: ErrorDetails) -> str:
    kind, seen = problem["type"], problem["input"]
    context = {name: _number(value) for name, value in problem.get("ctx", {}).items()}
    got = f", got {shown(seen)}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return _SENTENCES[kind]
    if kind == "literal_error":
        return _choice(str(context["expected"]), seen) + got
    if kind in _SENTENCES:
        return _SENTENCES[kind].format_map(context) + got
    wanted = _KINDS.get(kind.split("_")[0])
    if wanted is None:
        return f"expected another value{got}"
    return f"expected {wanted}{got}{_remedy(wanted, seen)}"


def _number(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else value


def _remedy(wanted: str, seen: Any) -> str:
    if wanted == "text" and not isinstance(seen, Mapping | Sequence):
        return ": put it in quotes"
    return f": write [{shown(seen)}]" if wanted == "a list" and isinstance(seen, str) else ""


def _choice(expected: str, seen: Any) -> str:
    names = [name.strip("'") for name in expected.replace(" or ", ", ").split(", ")]
    if len(names) == 1:
        return f"expected '{names[0]}'"
    nearest = difflib.get_close_matches(str(seen), names, n=1)
    hint = f" (did you mean '{nearest[0]}'?)" if nearest else ""
    return f"expected one of {', '.join(names)}{hint}"


def shown(value: Any) -> str:
    """Return a value as a message shows it: in YAML's notation, shortened."""
    if isinstance(value, Mapping):
        return "a mapping of keys"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list" if value else "an empty list"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _take_out(content: Any, path: Sequence[int | str]) -> None:
    """Remove the innermost entry of a mapping that ``path`` leads through."""
    last: tuple[dict[Any, Any], Any] | None = None
    for part in path:
        if isinstance(content, dict):
            if part not in content:
                # A tag of a union, or a missing key: remove what contains it.
                continue
            last, content = (content, part), content[part]
        elif isinstance(content, list) and isinstance(part, int) and part < len(content):
            content = content[part]
    if last:
        last[0].pop(last[1], None)


def _put(content: dict[Any, Any], place: str, value: Any) -> None:
    *around, key = place.split(".")
    for part in around:
        content = content[part]
    content[key] = value


def _known_keys(path: list[str], model: type[BaseModel]) -> tuple[list[str], list[str]]:
    """Return ``path`` as in the YAML, without tags of unions, and the keys of its section.

    Indices and mapping keys are skipped.
    """
    inside: Any = None
    told = []
    for part in path:
        if (tagged := _tagged(inside, part)) is not None:
            inside = tagged
        else:
            field = model.model_fields.get(part) or next(
                (f for f in model.model_fields.values() if f.alias == part), None
            )
            is_branch = field is None and (part.endswith("]") or part in _types_of(inside))
            if not is_branch:
                told.append(part)
            inside = field.annotation if field is not None else inside
        model = _section_in(inside) or model
    return told, [f.alias or name for name, f in model.model_fields.items() if not f.exclude]


def _types_of(annotation: Any) -> set[str]:
    """Return the names of the plain types that a union is made of."""
    members = typing.get_args(annotation)
    return {member.__name__ for member in members if member in (int, str, float, bool)}


def _tagged(annotation: Any, tag: str) -> Any:
    """Return the member of a union that carries ``tag``."""
    for member in typing.get_args(annotation):
        if any(isinstance(mark, Tag) and mark.tag == tag for mark in typing.get_args(member)[1:]):
            return typing.get_args(member)[0]
    return None


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union, typing.Annotated, tuple, dict, list):
        for inner in typing.get_args(annotation):
            if found := _section_in(inner):
                return found
    return None
