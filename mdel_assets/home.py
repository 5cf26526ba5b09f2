"""MDEL_HOME: the folder for everything, and its initial setup.

`MdelHome` knows the folders: one per experiment for its artifacts and its Dagster instance, and
`cache/` for files that can be fetched again.
"""

import dataclasses
import logging
import os
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from mdel_assets.errors import HomeError
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.kinds import KINDS
from mdel_assets.line.lineage import Lineage
from mdel_assets.store.durable_files import write_text_atomically
from mdel_assets.store.file_names import require_writable_name
from mdel_assets.store.remote.client import address_of, checked_address
from mdel_assets.store.remote.object_store import object_store

_log = logging.getLogger(__name__)
DEFAULT_EXPERIMENT = "sample"
DEFAULT_HOME = "mdel_home"


@dataclasses.dataclass(frozen=True)
class MdelHome:
    """The folder that holds all artifacts, Dagster's instances, offline tracking and caches."""

    root: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "MdelHome":
        """Return the home that ``MDEL_HOME`` names, by default ``mdel_home`` under this folder."""
        root = Path(environment.get("MDEL_HOME") or DEFAULT_HOME).resolve()
        require_writable_name(str(root), what="MDEL_HOME")
        return cls(root)

    def dagster_home(self, experiment: str, environment: Mapping[str, str] = os.environ) -> Path:
        """Return the folder of an experiment's Dagster instance, which holds only its runs.

        If ``DAGSTER_HOME`` is set, it is that folder, so that Dagster's own commands use the same.
        """
        named = environment.get("DAGSTER_HOME")
        return Path(named).resolve() if named else self.root / experiment / "dagster"

    @property
    def shared_dagster_home(self) -> Path:
        """The folder in which older versions kept the runs of all experiments."""
        return self.root / "dagster"

    @property
    def cache(self) -> Path:
        """The folder for files that can be fetched or made again."""
        return self.root / "cache"

    @property
    def merges(self) -> Path:
        """The default folder for merges of ``mdel merge``."""
        return self.root / "merges"

    @property
    def maps(self) -> Path:
        """The folder for maps of families of experiments."""
        return self.root / "maps"

    def lineage(self, experiment: Experiment, *, store: str | None = None) -> Lineage:
        """Return the lineage of ``experiment`` over the artifacts in this home.

        ``store`` is the address of the object store that holds them too, by default what
        ``MDEL_STORE`` names.

        Raises:
            ExperimentError: that is no address of a store.

        """
        address = checked_address(store) if store else address_of()
        return Lineage(
            experiment,
            root=self.root / experiment.name,
            cache=self.cache,
            registry=KINDS,
            remote=object_store(address, self.cache) if address else None,
        )

    def initialize(self, experiment: str) -> None:
        """Create the folder and settings of an experiment's instance, if they are missing.

        Raises:
            HomeError: the home is not writable.

        """
        folder = self.dagster_home(experiment)
        self._require_writable(folder)
        settings = folder / "dagster.yaml"
        if settings.exists():
            return
        shared = self.shared_dagster_home / "dagster.yaml"
        shipped = resources.files("mdel_assets.defs").joinpath("dagster.yaml")
        # Limits that a user changed in the older instance stay in effect.
        write_text_atomically(settings, (shared if shared.exists() else shipped).read_text("utf-8"))
        if shared.exists():
            _log.warning(
                "older runs of all experiments are kept in %s; artifacts are unchanged. To see "
                "these runs: DAGSTER_HOME=%s mdel ui",
                *(self.shared_dagster_home, self.shared_dagster_home),
            )

    def _require_writable(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Permissions do not show whether a disk is mounted read-only.
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise HomeError(
                f"MDEL_HOME is {self.root}, which is not writable ({error.strerror}). Set "
                f"MDEL_HOME to your own folder on a writable disk."
            ) from error


def place_in_words(*, root: str, experiment: str) -> str:
    """Return how the resource ``workspace`` describes itself: what tells one graph from another."""
    return f"The artifacts of the experiment '{experiment}' in {root}."


def experiment_name(environment: Mapping[str, str] = os.environ) -> str:
    """Return what ``MDEL_EXPERIMENT`` names, by default the sample."""
    name = environment.get("MDEL_EXPERIMENT") or DEFAULT_EXPERIMENT
    return require_writable_name(name, what="MDEL_EXPERIMENT")
