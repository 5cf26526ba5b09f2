"""Resources: where and how the graph runs. Nothing here enters a fingerprint."""

from pathlib import Path

import dagster as dg

from mdel_assets.experiment import Experiment
from mdel_assets.home import MdelHome
from mdel_assets.lineage import Lineage


class Workspace(dg.ConfigurableResource):
    """The folder that holds every artifact, as ``MDEL_HOME`` names it."""

    root: str

    @property
    def home(self) -> MdelHome:
        """The folder, with what is known of its insides."""
        return MdelHome(Path(self.root))

    def lineage(self, experiment: Experiment) -> Lineage:
        """Return the artifacts of ``experiment`` in this folder."""
        return self.home.lineage(experiment)
