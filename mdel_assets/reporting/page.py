"""The page: one HTML file with its style inside, that asks for nothing else and runs no script."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdel_assets.evaluation.sample_sizes import bytes_in_words
from mdel_assets.reporting.bars import Bars
from mdel_assets.reporting.corpus_tables import Corpus
from mdel_assets.reporting.foretold import Foretold
from mdel_assets.reporting.matrix_tables import NUM_SHADES, Heat
from mdel_assets.reporting.numbers import count_in_words, power_of_ten
from mdel_assets.reporting.overview import Facts
from mdel_assets.reporting.provenance import Provenance
from mdel_assets.reporting.tasks import Tasks
from mdel_assets.reporting.texts import Texts
from mdel_assets.reporting.together import Together
from mdel_assets.reporting.trainings import Trainings
from mdel_assets.reporting.verdict import Verdict

_FOLDER = Path(__file__).parent
_TEMPLATE = "report.html.jinja"
_NAME = re.compile(r"`([^`]*)`")
_MINUS = re.compile(r"(?<![\w.-])-(?=\d)")
# What cannot be seen, half a character, and what reverses the text behind it.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# A long name may go on in the next line behind these.
_JOINTS = re.compile(r"(?<=[_-])")


@dataclasses.dataclass(frozen=True)
class Page:
    """Everything that the page shows. ``notes`` and ``missing`` are the matrix's own remarks."""

    experiment: str
    verdict: Verdict
    facts: Facts
    heats: Sequence[Heat]
    averages: Bars
    changes: Sequence[Bars]
    notes: Sequence[str]
    missing: Sequence[str]
    over: str
    has_stale: bool
    together: Together | None
    foretold: Foretold | None
    tasks: Tasks | None
    trainings: Trainings
    corpus: Corpus
    texts: Texts
    provenance: Provenance


def render(page: Page) -> str:
    """Return the page as HTML. All texts and names are escaped."""
    import jinja2
    from markupsafe import Markup, escape

    def with_names(text: str) -> Markup:
        """Show what stands in backticks as a name."""
        code = Markup("<code>{}</code>")
        parts = enumerate(_NAME.split(visible(text)))
        return Markup("").join(code.format(p) if n % 2 else escape(signed(p)) for n, p in parts)

    def breakable(name: str) -> Markup:
        """Let a line end behind the joints of a name."""
        return Markup("<wbr>").join(_JOINTS.split(visible(name)))

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "with_names": with_names,
        "breakable": breakable,
        "signed": signed,
        "in_words": count_in_words,
        "in_bytes": bytes_in_words,
        "power_of_ten": power_of_ten,
    }
    context: dict[str, Any] = {
        field.name: getattr(page, field.name) for field in dataclasses.fields(page)
    }
    # Elements of matplotlib's, escaped by it.
    charts = {
        "curves": Markup(page.trainings.curves),  # noqa: S704
        "task_chart": Markup(page.tasks.chart if page.tasks else ""),  # noqa: S704
    }
    shades = range(1, NUM_SHADES + 1)
    template = environment.get_template(_TEMPLATE)
    return template.render(context, **charts, shades=shades)


def signed(text: str) -> str:
    """Return ``text`` with minus signs in front of negative numbers."""
    return _MINUS.sub("−", text)


def visible(text: str) -> str:
    """Return ``text`` with a sign in place of what cannot be shown as it stands."""
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text)
