"""Sample texts of several models side by side, as Markdown."""

import re
from collections.abc import Mapping, Sequence

from mdel_assets.generation.samples import Sample

_MAX_SHOWN = 600
_ASCII_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def samples_markdown(samples: Mapping[str, Sequence[Sample]]) -> str:
    """Return a section for each beginning: how its document goes on, and what each model writes.

    ``samples`` maps models to their samples, which are of the same beginnings in the same order.
    Texts are escaped, and cut after 600 characters.
    """
    sections = [_section(together) for together in _side_by_side(samples)]
    return "\n".join(sections) if sections else "No domain has held-out text.\n"


def _side_by_side(samples: Mapping[str, Sequence[Sample]]) -> list[dict[str, Sample]]:
    """Return the models' samples of each beginning of the first model."""
    found = {
        model: {(each.domain, each.document_id): each for each in own}
        for model, own in samples.items()
    }
    first = next(iter(found.values()), {})
    return [{model: own[place] for model, own in found.items() if place in own} for place in first]


def _section(samples: Mapping[str, Sample]) -> str:
    sample = next(iter(samples.values()))
    lines = [
        f"#### {escaped(sample.domain)}",
        "",
        f"> {escaped(sample.prompt)} …",
        "",
        "| continued by | bits per byte of the true text | text |",
        "|---|---:|---|",
        f"| the document itself | | {escaped(sample.reference)} |",
    ]
    for model, each in samples.items():
        bits = "" if each.bits_per_byte is None else f"{each.bits_per_byte:.3f}"
        end = " *(end of text)*" if each.ended_by == "end of text" else ""
        lines.append(f"| `{model}` | {bits} | {escaped(each.continuation)}{end} |")
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return ``text`` in one line in which nothing is taken for Markdown or HTML, cut if long."""
    shown = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
    shown = "".join(c if c.isprintable() or c in "\n\t" else "�" for c in shown)
    shown = _ASCII_PUNCTUATION.sub(r"\\\1", shown)
    return re.sub(r"\s*\n\s*", " ↵ ", shown).strip()
