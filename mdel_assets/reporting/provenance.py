"""Provenance as the page shows it: fingerprints, versions, settings, and how to repeat it all."""

import dataclasses
from collections.abc import Mapping, Sequence

from mdel_assets.experiment.loading import bundled_experiments, load_experiment
from mdel_assets.line.lineage import Lineage
from mdel_assets.reporting.made_of import Records, of_kind
from mdel_assets.reporting.settings import as_yaml, has_hidden_places, shown_settings
from mdel_assets.store.records import Identity


@dataclasses.dataclass(frozen=True)
class Source:
    """An artifact that the report goes back to."""

    label: str
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class Provenance:
    """``versions`` are those of the libraries that made the artifacts, several where they differ.

    ``is_bundled``: the experiment comes with the package. ``has_hidden_places``: the settings leave
    out folders, which whoever repeats the experiment fills in.
    """

    fingerprint: str
    sources: Sequence[Source]
    versions: Mapping[str, str]
    settings: str
    is_bundled: bool
    has_hidden_places: bool


def provenance_of(lineage: Lineage, identity: Identity, records: Records) -> Provenance:
    """Return the provenance of a report with ``identity``, which is made of ``records``."""
    experiment = lineage.experiment
    found: dict[str, dict[str, None]] = {}
    for record in records.values():
        for library, version in record.versions.items():
            found.setdefault(library, {})[version] = None
    name = experiment.name
    is_bundled = name in bundled_experiments() and load_experiment(name) == experiment
    return Provenance(
        identity.fingerprint,
        [
            Source(lineage.artifact(kind, key).label, record.fingerprint)
            for kind in lineage.kinds()
            for key, record in of_kind(lineage, records, kind).items()
        ],
        {library: ", ".join(sorted(versions)) for library, versions in sorted(found.items())},
        as_yaml(shown_settings(experiment)),
        is_bundled,
        has_hidden_places(experiment),
    )
