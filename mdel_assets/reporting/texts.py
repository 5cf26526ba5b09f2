"""Sample texts as the page shows them: one beginning, and how models continue it.

Text under copyright is left out, as it is on the cards of published models.
"""

import dataclasses
from collections.abc import Sequence

from mdel_assets.experiment.model_keys import DENSE, POSTERIOR, SEED, Family
from mdel_assets.generation.samples import Sample
from mdel_assets.generation.steps import read_samples
from mdel_assets.line.lineage import Lineage
from mdel_assets.publishing.card_figures import mean_models
from mdel_assets.publishing.licences import restricted_among

_MAX_CHARACTERS = 700
_MAX_TEXTS_PER_DOMAIN = 2


@dataclasses.dataclass(frozen=True)
class Continuation:
    """What one model writes, and the bits per byte that the true text costs it."""

    model: str
    text: str
    bits: float | None
    is_ended: bool


@dataclasses.dataclass(frozen=True)
class Text:
    """A beginning, how its document goes on, and what models write."""

    domain: str
    prompt: str
    reference: str
    continuations: Sequence[Continuation]


@dataclasses.dataclass(frozen=True)
class Texts:
    """The texts, and the domains whose text is kept away."""

    shown: Sequence[Text]
    kept_away: Sequence[str]


def texts_of(lineage: Lineage) -> Texts:
    """Return texts of the seed, a domain's own expert, dense and mean models, and all experts."""
    experiment, domains = lineage.experiment, lineage.present_domains()
    kept_away = restricted_among(experiment, domains)
    if "sample_texts" not in lineage.kinds():
        return Texts((), ())
    common = [SEED, DENSE, *mean_models(experiment)[:1], POSTERIOR]
    experts = Family.EXPERT.keys(domains)
    found = {model: read_samples(lineage, model) for model in (*common, *experts)}
    shown: list[Text] = []
    for domain in domains:
        if domain in kept_away:
            continue
        models = [SEED, Family.EXPERT.key(domain), *common[1:]]
        own = {m: [each for each in found[m] if each.domain == domain] for m in models if found[m]}
        shown += _texts(own)[:_MAX_TEXTS_PER_DOMAIN]
    return Texts(shown, kept_away)


def _texts(samples: dict[str, list[Sample]]) -> list[Text]:
    first = next(iter(samples.values()), [])
    by_document = {
        model: {each.document_id: each for each in own} for model, own in samples.items()
    }
    return [
        Text(
            each.domain,
            cut(each.prompt),
            cut(each.reference),
            [
                _continuation(model, own[each.document_id])
                for model, own in by_document.items()
                if each.document_id in own
            ],
        )
        for each in first
    ]


def _continuation(model: str, sample: Sample) -> Continuation:
    is_ended = sample.ended_by == "end of text"
    return Continuation(model, cut(sample.continuation), sample.bits_per_byte, is_ended)


def cut(text: str) -> str:
    """Return ``text`` without white space around it, cut if long."""
    shown = text.strip()
    return shown if len(shown) <= _MAX_CHARACTERS else shown[:_MAX_CHARACTERS] + "…"
