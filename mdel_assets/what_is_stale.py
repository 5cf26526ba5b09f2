"""What a run would make anew: the whole list for people, and one question for schedules."""

import dataclasses

from mdel_assets.errors import MdelError, MissingArtifactError
from mdel_assets.lineage import Lineage
from mdel_assets.staleness import Stale


@dataclasses.dataclass(frozen=True)
class StaleLine:
    """Everything that is missing or stale, in the order of the line.

    ``is_cut_off``: the datasets are not there yet, so that what follows them cannot be told apart;
    all of it is stale too.
    """

    found: list[Stale]
    is_cut_off: bool = False


def what_is_stale(lineage: Lineage, *, until: str | None = None) -> StaleLine:
    """Return what is missing or stale; of the assets before ``until`` where that is given."""
    found: list[Stale] = []
    try:
        for kind, keys in lineage.walk():
            if kind == until:
                break
            found += [stale for key in keys if (stale := lineage.stale(kind, key))]
    except MissingArtifactError:
        return StaleLine(found, is_cut_off=True)
    return StaleLine(found)


def could_be_made(lineage: Lineage, kind: str, key: str = "") -> bool:
    """Whether an artifact is missing or stale, and everything that it is made from is there."""
    try:
        identity = lineage.identity(kind, key)
    except MdelError:
        return False
    return lineage.artifact(kind, key).holds(identity.fingerprint) is None


def stale_experts(lineage: Lineage) -> dict[str, str]:
    """Return the domains whose expert a run would make anew, each with the reason.

    Left out are domains that the corpus lacks, and those whose dataset was never made. An expert
    is stale where its dataset is: from other shards or settings now, it will be another.
    """
    reasons = {}
    for domain in lineage.experiment.domain_keys:
        dataset = lineage.store.dataset(domain)
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


def report_needs(lineage: Lineage) -> str:
    """Return why the reports should be made anew, empty where nothing would change.

    Of models that were never made nothing is expected.
    """
    try:
        models = lineage.present_models()
    except MdelError:
        return ""
    made = [key for key in models if lineage.store.model(key).record_path.exists()]
    places = [(kind, key) for key in made for kind in ("token_scores", "perplexity_report")]
    for kind, key in [*places, ("perplexity_matrix", "")] if made else []:
        if stale := lineage.stale(kind, key):
            return f"{lineage.artifact(kind, key).label}: {stale.reason}"
    return ""
