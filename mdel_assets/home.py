"""MDEL_HOME: where everything lives, and how it is set up once.

`MdelHome` knows the folders: one per experiment for its artifacts and its Dagster instance,
`cache/` for what can be fetched again.
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
        """Return the folder of an experiment's Dagster instance, which holds its runs alone.

        Where ``DAGSTER_HOME`` is set, it is that: this package and Dagster's own commands agree.
        """
        named = environment.get("DAGSTER_HOME")
        return Path(named).resolve() if named else self.root / experiment / "dagster"

    @property
    def shared_dagster_home(self) -> Path:
        """Where the runs of all experiments were once kept together."""
        return self.root / "dagster"

    @property
    def cache(self) -> Path:
        """What can be fetched or made again."""
        return self.root / "cache"

    @property
    def merges(self) -> Path:
        """What ``mdel merge`` makes, unless it is told another place."""
        return self.root / "merges"

    def lineage(self, experiment: Experiment) -> Lineage:
        """Return the lineage of ``experiment`` over the artifacts in this home."""
        return Lineage(
            experiment, root=self.root / experiment.name, cache=self.cache, registry=KINDS
        )

    def initialize(self, experiment: str) -> None:
        """Create the folder and settings of an experiment's instance, where they are not there.

        Raises:
            HomeError: the home cannot be written to.

        """
        folder = self.dagster_home(experiment)
        self._require_writable(folder)
        settings = folder / "dagster.yaml"
        if settings.exists():
            return
        shared = self.shared_dagster_home / "dagster.yaml"
        shipped = resources.files("mdel_assets.defs").joinpath("dagster.yaml")
        # Limits that somebody changed for the instance of before hold on.
        write_text_atomically(settings, (shared if shared.exists() else shipped).read_text("utf-8"))
        if shared.exists():
            _log.warning(
                "runs of before are kept in %s, those of all experiments together; artifacts are "
                "as they were. To look at these runs: DAGSTER_HOME=%s mdel ui",
                *(self.shared_dagster_home, self.shared_dagster_home),
            )

    def _require_writable(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Whether a disk is mounted read-only, permissions do not tell.
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise HomeError(
                f"MDEL_HOME is {self.root}, which cannot be written to ({error.strerror}). Set "
                f"MDEL_HOME to a folder of yours on a disk that is mounted for writing."
            ) from error


def place_in_words(*, root: str, experiment: str) -> str:
    """Return how the resource ``workspace`` describes itself: what tells one graph from another."""
    return f"The artifacts of the experiment '{experiment}' in {root}."


def experiment_name(environment: Mapping[str, str] = os.environ) -> str:
    """Return what ``MDEL_EXPERIMENT`` names, by default the sample."""
    name = environment.get("MDEL_EXPERIMENT") or DEFAULT_EXPERIMENT
    return require_writable_name(name, what="MDEL_EXPERIMENT")
