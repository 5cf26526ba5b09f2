"""The source and licence of a domain's text, and whether it may be published at all.

The table covers the Pile's subsets. Sources: Gao et al. 2020, "The Pile"; Biderman et al. 2022,
"Datasheet for the Pile"; the sources' own pages. It is not legal advice.
"""

import dataclasses
from collections.abc import Iterable, Mapping

from mdel_assets.errors import RestrictedDataError
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.fields import Domain

ENGLISH = ("en",)
_SAMPLE = "sample://"


@dataclasses.dataclass(frozen=True)
class SourceNote:
    """The known facts about a domain's text.

    ``licence`` is an identifier of the Hub, or ``other`` if ``terms`` describe it in words.
    ``languages`` are ISO 639 codes. ``is_restricted``: known to hold whole works under copyright.
    """

    source: str
    terms: str
    licence: str = "other"
    languages: tuple[str, ...] = ENGLISH
    is_restricted: bool = False


PILE_NOTES: Mapping[str, SourceNote] = {
    "pile_cc": SourceNote(
        "Web pages of Common Crawl", "Common Crawl's terms of use; the pages belong to their owners"
    ),
    "pubmed_central": SourceNote(
        "Articles of PubMed Central's open access subset", "each article under its own licence"
    ),
    "books3": SourceNote(
        "Books of the Bibliotik collection", "books under copyright", is_restricted=True
    ),
    "openwebtext2": SourceNote(
        "Web pages that Reddit submissions link to",
        "pages under their owners' copyright",
        is_restricted=True,
    ),
    "arxiv": SourceNote("LaTeX sources of arXiv preprints", "each paper under its own licence"),
    "github": SourceNote("Repositories of GitHub", "each repository under its own licence"),
    "freelaw": SourceNote(
        "Court opinions of the Free Law Project's CourtListener",
        "opinions of United States courts are in the public domain",
    ),
    "stackexchange": SourceNote(
        "Questions and answers of the Stack Exchange network",
        "CC BY-SA, in the version of each post's date",
        licence="cc-by-sa-4.0",
    ),
    "uspto": SourceNote(
        "Background sections of patents of the United States Patent and Trademark Office",
        "published patents are in the public domain, except for parts marked otherwise",
    ),
    "pubmed_abstracts": SourceNote(
        "Abstracts of PubMed (MEDLINE)",
        "courtesy of the U.S. National Library of Medicine; abstracts may belong to their "
        "publishers",
    ),
    "gutenberg": SourceNote(
        "Books of Project Gutenberg published before 1919 (PG-19)",
        "texts in the public domain in the United States",
    ),
    "opensubtitles": SourceNote(
        "Subtitles of films and series", "subtitles under copyright", is_restricted=True
    ),
    "wikipedia": SourceNote(
        "The English Wikipedia", "CC BY-SA 3.0, Wikipedia's authors", licence="cc-by-sa-3.0"
    ),
    "dm_mathematics": SourceNote(
        "Mathematical exercises of DeepMind's generator", "Apache-2.0", licence="apache-2.0"
    ),
    "ubuntu_irc": SourceNote(
        "Logs of Ubuntu's IRC channels", "the channels' rules put their logs in the public domain"
    ),
    "bookcorpus2": SourceNote(
        "Books by unpublished authors", "books under copyright", is_restricted=True
    ),
    "europarl": SourceNote(
        "Proceedings of the European Parliament",
        "may be reproduced if the source is named",
        languages=(
            *("bg", "cs", "da", "de", "el", "en", "es", "et", "fi", "fr", "hu"),
            *("it", "lt", "lv", "nl", "pl", "pt", "ro", "sk", "sl", "sv"),
        ),
    ),
    "hackernews": SourceNote(
        "Comment trees of Hacker News",
        "read from its public interface; comments are their authors'",
    ),
    "youtubesubtitles": SourceNote(
        "Subtitles of YouTube videos", "subtitles under copyright", is_restricted=True
    ),
    "philpapers": SourceNote(
        "Open-access papers of PhilArchive", "each paper under its own licence"
    ),
    "nih_exporter": SourceNote(
        "Abstracts of awarded applications, NIH ExPORTER", "published by a United States agency"
    ),
    "enron": SourceNote(
        "E-mails of Enron's staff, published by the Federal Energy Regulatory Commission",
        "public; the e-mails hold personal data",
    ),
}


def source_note(experiment: Experiment, domain: Domain) -> SourceNote:
    """Return the known facts about the text of ``domain`` in the experiment's corpus."""
    if all(place.startswith(_SAMPLE) for place in experiment.source.train):
        return _sample_note(domain)
    known = _pile_note(domain)
    # Copyright applies in any layout; the other notes are about the Pile's own copies.
    if known and (known.is_restricted or experiment.source.layout == "pile"):
        return known
    licences = experiment.source.licenses
    if licences:
        terms = f"documents whose licence matches one of: {', '.join(licences)}"
        return SourceNote(f"'{domain.name}' of the corpus", terms)
    return SourceNote(f"'{domain.name}' of the corpus", "unknown: look it up before use")


def restricted_among(experiment: Experiment, domain_keys: Iterable[str]) -> list[str]:
    """Return those of ``domain_keys`` whose text is known to be under copyright."""
    return [
        key
        for key in domain_keys
        if source_note(experiment, experiment.require_domain(key)).is_restricted
    ]


def refuse_restricted(
    experiment: Experiment, domain_keys: Iterable[str], *, what: str
) -> list[str]:
    """Return the restricted ones of ``domain_keys``, the domains that ``what`` is made from.

    Raises:
        RestrictedDataError: there are some, and the experiment does not allow them.

    """
    restricted = restricted_among(experiment, domain_keys)
    if restricted and not experiment.hub.allow_restricted:
        raise RestrictedDataError(
            f"{what} is made from text under copyright: {', '.join(restricted)}. Remove these "
            f"domains from the experiment's 'domains'; or, if you have the right to share it, set "
            f"'hub: {{allow_restricted: true}}'."
        )
    return restricted


def _pile_note(domain: Domain) -> SourceNote | None:
    """Return the row of a Pile subset, known by its key or by any of its labels."""
    from mdel_assets.experiment.pile_domains import PILE_DOMAINS

    labels = {label.casefold() for label in (domain.name, *domain.aliases)}
    for known in PILE_DOMAINS:
        if known.key == domain.key or labels & {
            label.casefold() for label in (known.name, *known.aliases)
        }:
            return PILE_NOTES[known.key]
    return None


def _sample_note(domain: Domain) -> SourceNote:
    from mdel_assets.data.sample_corpus import SAMPLE_DOMAINS

    for sample in SAMPLE_DOMAINS:
        if sample.label == domain.name:
            return SourceNote(sample.source, sample.licence)
    return SourceNote("The sample corpus", "as its manifest says")
