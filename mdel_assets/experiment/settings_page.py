"""docs/settings.md: every setting of an experiment with its default, from the JSON Schema."""

import json
from collections.abc import Iterator
from typing import Any

from mdel_assets.experiment.schema import SENTENCE_END, schema_text

_HEAD = """# Settings

Every setting of an experiment's YAML, with its default and the values that it takes.
`mdel schema --page` prints this page for the version that is installed. `mdel check FILE` refuses
an unknown setting and names the nearest known one. Examples: the bundled experiments in
`mdel_assets/experiments/`.
"""
_NO_LIMIT = 10**15


def settings_page() -> str:
    """Return the page as Markdown: a section of it for each section of the YAML."""
    schema = json.loads(schema_text())
    parts = [_HEAD]
    for path, content in _sections("", schema, schema["$defs"]):
        parts += [f"## `{path}`" if path else "## At the top", ""]
        parts += [" ".join(_told(content, is_top=not path)), ""]
        parts += ["| setting | default | values |", "|---|---|---|"]
        required = content.get("required", [])
        for name, about in content["properties"].items():
            default = "required" if name in required else _default(about)
            parts.append(f"| `{name}` | {default} | {_values(about)} |")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _sections(
    path: str, content: dict[str, Any], known: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a section and those below it, each with its place in the YAML."""
    yield path, content
    for name, about in content["properties"].items():
        for suffix, inner in _inner(about):
            yield from _sections(f"{path}.{name}{suffix}".lstrip("."), known[inner], known)


def _inner(about: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the sections that a setting holds: how they are reached from it, and their names."""
    if "$ref" in about:
        yield "", about["$ref"].rpartition("/")[2]
    for one in (*about.get("anyOf", ()), *about.get("oneOf", ())):
        yield from _inner(one)
    for name, suffix in (("items", "[]"), ("additionalProperties", ".NAME")):
        if isinstance(about.get(name), dict):
            yield from ((suffix + further, inner) for further, inner in _inner(about[name]))


def _told(content: dict[str, Any], *, is_top: bool) -> list[str]:
    """Return what is said of a section, and of its keys besides."""
    own = "" if is_top else content.get("description", "")
    keys = [about.get("description", "") for about in content["properties"].values()]
    more = dict.fromkeys(one for key in keys for one in SENTENCE_END.split(key))
    return [text for text in (own, *(one for one in more if one not in own)) if text]


def _default(about: dict[str, Any]) -> str:
    default = about.get("default", {})
    if isinstance(default, dict):
        return ""
    if default in (None, []):
        return "none"
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _values(about: dict[str, Any]) -> str:
    """Return in words which values a setting takes."""
    if options := [*about.get("anyOf", ()), *about.get("oneOf", ())]:
        kinds = dict.fromkeys(_values(one) for one in options if one.get("type") != "null")
        return " or ".join(kind for kind in kinds if kind)
    if "const" in about:
        return f"`{about['const']}`"
    if "enum" in about:
        return ", ".join(f"`{value}`" for value in about["enum"])
    if "$ref" in about:
        return "a section"
    kind = about.get("type")
    if kind == "array":
        of = _values(about.get("items", {}))
        return f"list: {of}" if of else "list"
    if kind == "object":
        return "sections by name" if list(_inner(about)) else "values by name"
    words = {"string": "text", "boolean": "`true`, `false`"}
    words |= {"integer": "whole number", "number": "number"}
    return f"{words.get(str(kind), '')} {' and '.join(_bounds(about))}".strip()


def _bounds(about: dict[str, Any]) -> Iterator[str]:
    bounds = (
        ("minimum", "≥"),
        ("exclusiveMinimum", ">"),
        ("maximum", "≤"),
        ("exclusiveMaximum", "<"),
    )
    for name, sign in bounds:
        if name in about and about[name] < _NO_LIMIT:
            yield f"{sign} {about[name]:,.12g}"
