"""The map of a family in a home: what is measured of it by now, and its files."""

from pathlib import Path

from mdel_assets.errors import MdelError, MissingArtifactError
from mdel_assets.evaluation.outcomes import Outcome, read_outcome
from mdel_assets.experiment.families import ExperimentFamily
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome
from mdel_assets.mapping.map_files import read_map, write_map

_NOT_FINISHED = "it has not run to its end"


def folder_of(family: ExperimentFamily, home: MdelHome) -> Path:
    """Return the folder of a family's map."""
    return home.maps / family.name


def measured(family: ExperimentFamily, home: MdelHome) -> tuple[list[Outcome], dict[str, str]]:
    """Return the outcomes of all finished settings, and why each other one is missing.

    An outcome that ``map.json`` holds already is not computed again.
    """
    known = read_map(folder_of(family, home))
    found: list[Outcome] = []
    missing: dict[str, str] = {}
    for setting, name in family.experiment_names().items():
        lineage = home.lineage(load_experiment(name))
        try:
            record = lineage.current("ensemble_report")
            if record is None:
                missing[setting] = _NOT_FINISHED
            elif setting in known and known[setting].fingerprint == record.fingerprint:
                found.append(known[setting])
            else:
                found.append(read_outcome(lineage, setting))
        except MissingArtifactError:
            missing[setting] = _NOT_FINISHED
        except MdelError as error:
            missing[setting] = str(error)
    return found, missing


def write_family_map(family: ExperimentFamily, home: MdelHome) -> tuple[list[Outcome], Path]:
    """Write the map of what is finished by now; return its outcomes, and its folder."""
    outcomes, missing = measured(family, home)
    folder = folder_of(family, home)
    write_map(family.name, outcomes, folder, missing=missing)
    return outcomes, folder
