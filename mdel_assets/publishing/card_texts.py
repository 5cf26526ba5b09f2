"""The section of a model's card that shows what the model writes."""

import re
from collections.abc import Collection

from mdel_assets.generation.samples_markdown import escaped, samples_markdown
from mdel_assets.generation.steps import side_by_side
from mdel_assets.line.lineage import Lineage
from mdel_assets.publishing.licences import source_note

_MAX_TEXTS = 3
_HEADING = "## What it writes"
# Texts are on one line each and escaped, so none of them begins a section.
_SECTION = re.compile(rf"^{_HEADING}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)


def texts_section(lineage: Lineage, model_key: str, domains: Collection[str]) -> str:
    """Return what a model writes after beginnings of documents of ``domains``; empty if not known.

    Text under copyright is left out.
    """
    experiment = lineage.experiment
    notes = {key: source_note(experiment, experiment.require_domain(key)) for key in domains}
    shown = [key for key, note in notes.items() if not note.is_restricted]
    found = {
        model: [each for each in samples if each.domain in shown][:_MAX_TEXTS]
        for model, samples in side_by_side(lineage, model_key).items()
    }
    if not found.get(model_key):
        return ""
    settings = experiment.evaluation.sample_texts
    return f"""{_HEADING}

Models continued the beginnings of held-out documents, once, with a fixed seed, at temperature
{settings.temperature:g} and top-p {settings.top_p:g}.

{samples_markdown(found)}
"""


def shows_text_of(card: str, domain: str) -> bool:
    """Whether the section of a card shows beginnings of documents of ``domain``."""
    section = _SECTION.search(card)
    return section is not None and f"\n#### {escaped(domain)}\n" in section[0]


def without_texts(card: str) -> str:
    """Return a card without the section."""
    return _SECTION.sub("", card)
