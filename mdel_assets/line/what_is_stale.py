"""What a run would make anew: the whole list for people, and one question for schedules."""

import dataclasses
from collections.abc import Sequence

from mdel_assets.errors import ArtifactError, MdelError
from mdel_assets.experiment.model_keys import Family
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.replicates import replicates_of
from mdel_assets.line.staleness import Stale
from mdel_assets.store.looking_once import looking_once


@dataclasses.dataclass(frozen=True)
class StaleLine:
    """Everything that is missing or stale, in the order of the line.

    ``is_cut_off``: the datasets are not there yet, so that what follows them cannot be told apart;
    all of it is stale too.
    """

    found: list[Stale]
    is_cut_off: bool = False


@looking_once()
def what_is_stale(lineage: Lineage, *, until: str | None = None) -> StaleLine:
    """Return what is missing or stale; of the assets before ``until`` where that is given."""
    found: list[Stale] = []
    try:
        for kind, keys in lineage.walk():
            if kind == until:
                break
            found += [stale for key in keys if (stale := lineage.to_do(kind, key))]
    except ArtifactError:
        return StaleLine(found, is_cut_off=True)
    return StaleLine(found)


def could_be_made(lineage: Lineage, kind: str, key: str = "") -> bool:
    """Whether an artifact is missing or stale, and everything that it is made from is there.

    A domain that no shard has a document of needs no dataset.
    """
    try:
        if kind == "domain_dataset" and key not in lineage.keys(kind):
            return False
        identity = lineage.identity(kind, key)
    except MdelError:
        return False
    return lineage.artifact(kind, key).holds(identity.fingerprint) is None


@looking_once()
def stale_experts(lineage: Lineage) -> dict[str, str]:
    """Return the domains whose expert a run would make anew, each with the reason.

    Left out are domains that the corpus lacks, and those whose dataset was never made. An expert
    is stale where its dataset is: from other shards or settings now, it will be another.
    """
    reasons = {}
    for domain in lineage.experiment.domain_keys:
        dataset = lineage.artifact("domain_dataset", domain)
        try:
            is_present = lineage.is_present(domain)
        except MdelError:
            continue
        if not is_present:
            continue
        if stale := lineage.stale("domain_dataset", domain):
            reasons[domain] = f"{dataset.label}: {stale.reason}"
        elif stale := lineage.stale("expert_model", domain):
            reasons[domain] = stale.reason
    return reasons


def report_kinds(lineage: Lineage) -> list[str]:
    """Return the report's assets that can be made now; empty before there is a model.

    The matrix is of the models that are there. Ensembles and sweeps need all of theirs.
    """
    made = _made_models(lineage)
    return [kind for kind in lineage.kinds() if _could_report(lineage, kind, made)] if made else []


def _could_report(lineage: Lineage, kind: str, made: Sequence[str]) -> bool:
    """Whether an asset of the report can be made of the models that were made."""
    declared = lineage.registry[kind]
    if not declared.is_report or not lineage.keys(kind):
        return False
    if declared.takes_what_is_there or _is_of_models(lineage, kind):
        return True
    own = [m for m in lineage.present_models() if not Family.REFERENCE.has(m)]
    return set(made).issuperset(own) and all(map(_is_scored, replicates_of(lineage)[1:]))


def _is_scored(replicate: Lineage) -> bool:
    """Whether all models of a further replicate have their scores."""
    models = replicate.present_models()
    return all(replicate.artifact("token_scores", m).is_made() for m in models)


@looking_once()
def stale_reports(lineage: Lineage) -> list[Stale]:
    """Return what of the report would be made anew, of the models that are there."""
    made = _made_models(lineage)
    places = [
        (kind, key)
        for kind in report_kinds(lineage)
        for key in (made if _is_of_models(lineage, kind) else [""])
    ]
    return [stale for kind, key in places if (stale := lineage.stale(kind, key))]


def _is_of_models(lineage: Lineage, kind: str) -> bool:
    """Whether a kind has one artifact for each model."""
    return list(lineage.registry[kind].keys(lineage.experiment)) == lineage.experiment.model_keys


def _made_models(lineage: Lineage) -> list[str]:
    try:
        models = lineage.present_models()
    except MdelError:
        return []
    return [key for key in models if lineage.model(key).is_made()]
