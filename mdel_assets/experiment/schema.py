"""A JSON Schema of experiments, from which editors complete and explain keys.

It is generated from the sections. A key is explained by the sentences of its section's docstring
that name it. The schema ships as `SCHEMA_PATH`; ``mdel schema`` prints what is generated now.
"""

import json
import re
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.section import Section

SCHEMA_PATH = Path(__file__).with_name("experiment.schema.json")
SENTENCE_END = re.compile(r"(?<=\.)\s+(?=[A-Z`])")
# Set by the loader, never written in the YAML.
_FOLDER = "folder"


def schema_text() -> str:
    """Return the JSON Schema of an experiment's YAML, as `SCHEMA_PATH` holds it."""
    schema = Experiment.model_json_schema()
    del schema["properties"][_FOLDER]
    sections = {section.__name__: section for section in _sections_in(Experiment)}
    for name, content in {**schema["$defs"], Experiment.__name__: schema}.items():
        _explain(content, sections[name])
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "An experiment of MDEL assets",
        "description": "What is studied: a corpus, its domains, and what is made of them.",
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _explain(content: dict[str, Any], section: type[Section]) -> None:
    """Describe a section, and each key by the sentences that name it, inherited ones too."""
    content["description"] = _as_markdown(_sentences(section))
    heard = [one for above in section.__mro__ for one in _sentences(above)]
    for key, about in content["properties"].items():
        about.pop("title", None)
        if told := [sentence for sentence in heard if f"``{key}``" in sentence]:
            about["description"] = _as_markdown(told)


def _sentences(section: type) -> list[str]:
    """Return the sentences of a section's docstring; none for what is not a section itself."""
    if not issubclass(section, Section) or section is Section:
        return []
    paragraphs = [" ".join(part.split()) for part in (section.__doc__ or "").split("\n\n")]
    return [one for paragraph in paragraphs for one in SENTENCE_END.split(paragraph)]


def _as_markdown(sentences: Sequence[str]) -> str:
    return " ".join(sentences).replace("``", "`")


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    """Yield the sections that a type is made of, itself among them."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
        for field in annotation.model_fields.values():
            yield from _sections_in(field.annotation)
    for inner in typing.get_args(annotation):
        yield from _sections_in(inner)
