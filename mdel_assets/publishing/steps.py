"""The steps that publish, one function per asset, without Dagster. They run only when asked.

A publication leaves a record under ``publications/``: what was published, where, as which revision.
The same thing again is left alone if the record says so and the repository still holds that
revision; else the repository's files are compared, and what differs is sent in one commit.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence

from mdel_assets.experiment.merge_recipe import RECIPE_NAME
from mdel_assets.experiment.model_keys import Family
from mdel_assets.generation.steps import current_samples
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.locks import making
from mdel_assets.line.presence import DATASET
from mdel_assets.merging.members import without_folders
from mdel_assets.merging.recipe_members import members_of_all_stages
from mdel_assets.publishing.backend import Outgoing, Repository
from mdel_assets.publishing.card_figures import CHART_NAME, Figures, draw_chart, read_figures
from mdel_assets.publishing.cards import CARD_NAME
from mdel_assets.publishing.forgotten import refuse_forgotten
from mdel_assets.publishing.licences import refuse_restricted
from mdel_assets.publishing.made_from import refuse_other_inputs
from mdel_assets.publishing.model_cards import expert_card, merged_card, mixture_card
from mdel_assets.publishing.publication import (
    REPORT_NAME,
    Publication,
    describe,
    publish,
    with_publishing_retries,
    write_publication,
)
from mdel_assets.publishing.publisher import Publisher, repository_of
from mdel_assets.store.artifacts import RECORD_NAME, Artifact
from mdel_assets.store.records import Identity, Record

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a step did: the publication's record, or what it would send."""

    record: Record | None
    plan: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Content:
    """What is to be published: an artifact, the figures on its card, and the card's text."""

    kind: str
    key: str
    artifact: Artifact
    figures: Figures
    domains: Sequence[str]
    card: str
    others: Mapping[str, str]


def publish_dataset(lineage: Lineage, domain: str, *, publisher: Publisher) -> Outcome:
    """Publish the dataset of one domain.

    Raises:
        RestrictedDataError: it holds text under copyright, and the experiment does not allow that.
        PublishingError: it is marked as forgotten, or what goes along with it is; or, of a model,
            what that was made from is another by now.

    """
    from mdel_assets.publishing.dataset_card import dataset_card

    artifact = lineage.artifact("domain_dataset", domain)
    target = lineage.artifact("hub_dataset", domain)

    def content(repository: Repository) -> _Content:
        domains = _text_in(lineage, [domain])
        _refuse(lineage, domains, repository)
        card = dataset_card(lineage, domain, name=publisher.backend.loading_name(repository))
        figures, others = Figures("", {}), _routed(lineage)
        return _Content(target.kind, domain, artifact, figures, domains, card, others)

    return _publish(lineage, artifact, target, content, publisher)


def publish_expert(lineage: Lineage, domain: str, *, publisher: Publisher) -> Outcome:
    """Publish the expert of one domain; as `publish_dataset`."""
    artifact = lineage.artifact("expert_model", domain)
    target = lineage.artifact("hub_expert", domain)

    def content(repository: Repository) -> _Content:
        domains = text_behind(lineage, [domain])
        _refuse(lineage, domains, repository)
        figures = read_figures(lineage, Family.EXPERT.key(domain), first=domain)
        datasets = _published_datasets(lineage, publisher)
        card = expert_card(
            lineage,
            domain,
            title=repository.name.split("/")[1],
            name=publisher.backend.loading_name(repository),
            figures=figures,
            domains=domains,
            datasets=datasets,
        )
        return _Content(target.kind, domain, artifact, figures, domains, card, datasets)

    return _publish(lineage, artifact, target, content, publisher)


def publish_merged(lineage: Lineage, recipe: str, *, publisher: Publisher) -> Outcome:
    """Publish the merged model of one recipe; as `publish_dataset`."""
    artifact = lineage.artifact("merged_model", recipe)
    target = lineage.artifact("hub_merged_model", recipe)

    def content(repository: Repository) -> _Content:
        members = {member.name for member in members_of_all_stages(lineage, recipe)}
        inside = [key for key in lineage.present_domains() if Family.EXPERT.key(key) in members]
        if any(Family.RANDOM.has(name) or Family.VARIANT.has(name) for name in members):
            inside = lineage.present_domains()
        made = _MadeOfExperts(target.kind, Family.MERGED, artifact, inside, inside, merged_card)
        return _content_made_of_experts(lineage, recipe, made, repository, publisher)

    return _publish(lineage, artifact, target, content, publisher)


def publish_mixture(lineage: Lineage, name: str, *, publisher: Publisher) -> Outcome:
    """Publish one mixture of experts; as `publish_dataset`."""
    artifact = lineage.artifact("moe_model", name)
    target = lineage.artifact("hub_mixture", name)

    def content(repository: Repository) -> _Content:
        record = artifact.require()
        inside = [key for key in lineage.present_domains() if key in record.config["experts"]]
        reads_all = lineage.experiment.mixtures[name].reads_all
        read = lineage.present_domains() if reads_all else inside
        made = _MadeOfExperts(target.kind, Family.MIXTURE, artifact, inside, read, mixture_card)
        return _content_made_of_experts(lineage, name, made, repository, publisher)

    return _publish(lineage, artifact, target, content, publisher)


@dataclasses.dataclass(frozen=True)
class _MadeOfExperts:
    """A model made of the experts of ``inside``; text of the domains ``read`` went into it."""

    kind: str
    family: Family
    artifact: Artifact
    inside: Sequence[str]
    read: Sequence[str]
    make_card: Callable[..., str]


def _content_made_of_experts(
    lineage: Lineage,
    key: str,
    made: _MadeOfExperts,
    repository: Repository,
    publisher: Publisher,
) -> _Content:
    domains = text_behind(lineage, made.read)
    _refuse(lineage, domains, repository)
    figures = read_figures(lineage, made.family.key(key))
    datasets = _published_datasets(lineage, publisher)
    experts = _published_experts(lineage, made.inside, publisher)
    card = made.make_card(
        lineage,
        key,
        title=repository.name.split("/")[1],
        name=publisher.backend.loading_name(repository),
        figures=figures,
        domains=domains,
        datasets={domain: datasets[domain] for domain in made.inside if domain in datasets},
        members=made.inside,
        experts=[place.partition("@")[0] for place in experts.values()],
    )
    others = {**datasets, **{f"expert {domain}": place for domain, place in experts.items()}}
    return _Content(made.kind, key, made.artifact, figures, domains, card, others)


def _published_experts(
    lineage: Lineage, domains: Sequence[str], publisher: Publisher
) -> dict[str, str]:
    """Return where the present expert of each domain was published."""
    places = {key: _place(lineage, "hub_expert", key, publisher) for key in domains}
    return {key: place for key, place in places.items() if place}


PUBLISH = {
    "hub_dataset": publish_dataset,
    "hub_expert": publish_expert,
    "hub_merged_model": publish_merged,
    "hub_mixture": publish_mixture,
}


def _publish(
    lineage: Lineage,
    artifact: Artifact,
    target: Artifact,
    content: Callable[[Repository], _Content],
    publisher: Publisher,
) -> Outcome:
    artifact.require()
    repository = repository_of(
        lineage.experiment, target.kind, target.key, namespace=publisher.namespace
    )
    # What is sent is not replaced meanwhile, nor sent by another run, nor is it marked before. It
    # may be made anew during the wait: what is checked, and told on its card, is read after that.
    with making(artifact, target):
        for sent in (artifact, *_reports(lineage, target.kind)):
            refuse_forgotten(lineage, sent)
        if artifact.kind != DATASET:
            refuse_other_inputs(lineage, artifact)
        return _publish_alone(lineage, content(repository), target, repository, publisher)


def _publish_alone(
    lineage: Lineage,
    content: _Content,
    target: Artifact,
    repository: Repository,
    publisher: Publisher,
) -> Outcome:
    identity = _identity(lineage, content, repository, publisher)
    chart = draw_chart(content.figures)
    files = _files(content.artifact, content.card, chart)
    for report in _reports(lineage, content.kind):
        (name,) = report.require().files
        files[REPORT_NAME] = report.folder / name
    if publisher.dry_run:
        lines = describe(publisher.backend, repository, files, private=publisher.private)
        for line in lines:
            _log.info("%s", line)
        return Outcome(None, tuple(lines))
    if current := _still_there(target, identity, repository, publisher):
        _log.info("%s is up to date on %s", repository, publisher.backend.location)
        return Outcome(current)
    done = publish(
        publisher.backend,
        repository,
        files,
        message=f"{content.artifact.label} of experiment {lineage.experiment.name}",
        private=publisher.private,
        retries=publisher.retries,
    )
    verb = "published" if done.is_new else "holds the same already:"
    _log.info("%s %s %s", repository, verb, done.url)
    pictures = {CHART_NAME: chart} if chart else {}
    record = write_publication(
        target,
        identity,
        done,
        location=publisher.backend.location,
        domains=content.domains,
        files={CARD_NAME: content.card.encode(), **pictures},
        num_files=len(files),
    )
    return Outcome(record)


def _identity(
    lineage: Lineage, content: _Content, repository: Repository, publisher: Publisher
) -> Identity:
    reports = {
        lineage.artifact("perplexity_report", key).label: record.fingerprint
        for key in content.figures.rows
        if (record := lineage.artifact("perplexity_report", key).read_record())
    }
    if written := current_samples(lineage, content.figures.model):
        reports[lineage.artifact("sample_texts", written.key).label] = written.fingerprint
    for report in _reports(lineage, content.kind):
        reports[report.label] = report.require().fingerprint
    return Identity(
        kind=content.kind,
        key=content.key,
        experiment=lineage.experiment.name,
        code_version=lineage.registry[content.kind].code_version,
        config={"repository": repository.name, "private": publisher.private},
        inputs={
            content.artifact.label: content.artifact.require().fingerprint,
            **reports,
            **content.others,
        },
    )


def _reports(lineage: Lineage, kind: str) -> list[Artifact]:
    """Return the page on the experiment where models are published with it; it may be missing."""
    is_asked = lineage.experiment.hub.report and kind != "hub_dataset"
    return [lineage.artifact("experiment_report")] if is_asked else []


def _still_there(
    target: Artifact, identity: Identity, repository: Repository, publisher: Publisher
) -> Record | None:
    """Return the publication's record if it is of the same thing, and the repository holds it."""
    record = target.holds(identity.fingerprint)
    if record is None or Publication.of(record).location != publisher.backend.location:
        return None
    revision = with_publishing_retries(
        lambda: publisher.backend.revision(repository),
        what=f"looking at {repository}",
        retries=publisher.retries,
    )
    return record if revision == Publication.of(record).revision else None


def _files(artifact: Artifact, card: str, chart: bytes | None) -> dict[str, Outgoing]:
    """Return the files of a repository: the artifact's own, with the card in place of its own."""
    record = artifact.require()
    files: dict[str, Outgoing] = {
        name: artifact.folder / name for name in record.files if name != CARD_NAME
    }
    if RECIPE_NAME in files:
        files[RECIPE_NAME] = without_folders(
            (artifact.folder / RECIPE_NAME).read_text("utf-8")
        ).encode()
    files[RECORD_NAME] = artifact.record_path
    files[CARD_NAME] = card.encode()
    if chart:
        files[CHART_NAME] = chart
    return files


def _text_in(lineage: Lineage, domains: Sequence[str]) -> list[str]:
    """Return the domains whose text the datasets of ``domains`` hold, their own first."""
    from mdel_assets.publishing.dataset_card import documents_by_domain

    found = dict.fromkeys(domains)
    for key in domains:
        artifact = lineage.artifact("domain_dataset", key)
        artifact.require()
        found |= dict.fromkeys(documents_by_domain(artifact.folder))
    return list(found)


def text_behind(lineage: Lineage, domains: Sequence[str]) -> list[str]:
    """Return the domains whose text a model of ``domains`` has read, its seed's included."""
    found = _text_in(lineage, domains)
    if lineage.experiment.seed_model.pretrain:
        found += [key for key in lineage.present_domains() if key not in found]
    return found


def _refuse(lineage: Lineage, domains: Sequence[str], repository: Repository) -> None:
    restricted = refuse_restricted(lineage.experiment, domains, what=str(repository))
    if restricted:
        _log.warning(
            "%s is made of text under copyright (%s); 'hub.allow_restricted' says that you may "
            "share it",
            repository,
            ", ".join(restricted),
        )


def _published_datasets(lineage: Lineage, publisher: Publisher) -> dict[str, str]:
    """Return where each domain's dataset was published, as ``repository@revision``."""
    places = {
        key: _place(lineage, "hub_dataset", key, publisher)
        for key in lineage.experiment.domain_keys
    }
    return {key: place for key, place in places.items() if place}


def _place(lineage: Lineage, kind: str, key: str, publisher: Publisher) -> str | None:
    """Return where the present artifact of a publication lies; None if that was not published."""
    record = lineage.artifact(kind, key).read_record()
    (source,) = lineage.inputs(kind, key)
    present = source.read_record()
    if record is None or present is None:
        return None
    is_present = record.inputs.get(source.label) == present.fingerprint
    last = Publication.of(record)
    is_here = last.location == publisher.backend.location
    return f"{last.repository}@{last.revision}" if is_present and is_here else None


def _routed(lineage: Lineage) -> dict[str, str]:
    """Return the fingerprints of what a dataset's card tells of its shards."""
    return {
        artifact.label: record.fingerprint
        for shard in lineage.experiment.shards()
        for artifact in (
            lineage.artifact("raw_pile_shard", shard.key),
            lineage.artifact("shard_documents", shard.key),
        )
        if (record := artifact.read_record())
    }
