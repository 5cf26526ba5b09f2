"""MDEL_HOME: where everything lives, and how it is set up once.

`MdelHome` knows the folders: one per experiment for artifacts, `dagster/` for the instance,
`cache/` for what can be fetched again.
"""

import dataclasses
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from mdel_assets.artifact_store import ArtifactStore
from mdel_assets.durable_files import write_text_atomically
from mdel_assets.experiment import Experiment
from mdel_assets.file_names import require_writable_name
from mdel_assets.lineage import Lineage

DEFAULT_EXPERIMENT = "sample"
DEFAULT_HOME = "mdel_home"


@dataclasses.dataclass(frozen=True)
class MdelHome:
    """The folder that holds all artifacts, the Dagster instance, offline tracking and caches."""

    root: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "MdelHome":
        """Return the home that ``MDEL_HOME`` names, by default ``mdel_home`` under this folder."""
        root = Path(environment.get("MDEL_HOME") or DEFAULT_HOME).resolve()
        require_writable_name(str(root), what="MDEL_HOME")
        return cls(root)

    @property
    def dagster_home(self) -> Path:
        """The Dagster instance's folder."""
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
        store = ArtifactStore(self.root / experiment.name, experiment=experiment.name)
        return Lineage(experiment, store)

    def initialize(self) -> None:
        """Create the folders and the Dagster instance's settings, where they are not there yet."""
        self.dagster_home.mkdir(parents=True, exist_ok=True)
        settings = self.dagster_home / "dagster.yaml"
        if not settings.exists():
            shipped = resources.files("mdel_assets.defs").joinpath("dagster.yaml")
            write_text_atomically(settings, shipped.read_text("utf-8"))


def experiment_name(environment: Mapping[str, str] = os.environ) -> str:
    """Return what ``MDEL_EXPERIMENT`` names, by default the sample."""
    name = environment.get("MDEL_EXPERIMENT") or DEFAULT_EXPERIMENT
    return require_writable_name(name, what="MDEL_EXPERIMENT")
