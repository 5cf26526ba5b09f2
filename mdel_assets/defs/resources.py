"""Resources: where the graph runs and what it reaches. Nothing here enters a fingerprint.

How models are trained, `Compute`, has a module of its own.
"""

from pathlib import Path
from typing import Any

import dagster as dg

from mdel_assets.experiment import Experiment
from mdel_assets.home import MdelHome
from mdel_assets.lineage import Lineage
from mdel_assets.publishing.publisher import Publisher, make_publisher
from mdel_assets.tracking import Tracker, tracking_mode


class Tracking(dg.ConfigurableResource):
    """Weights & Biases. ``mode`` is online, offline, disabled, or auto: online where a key is."""

    folder: str
    mode: str = "auto"

    def tracker(self, experiment: Experiment) -> Tracker:
        """Return what tracks the runs of ``experiment``."""
        mode: Any = tracking_mode() if self.mode == "auto" else self.mode
        return Tracker(
            project=experiment.tracking.wandb_project,
            entity=experiment.tracking.wandb_entity,
            group=experiment.name,
            folder=Path(self.folder),
            mode=mode,
        )


class HubResource(dg.ConfigurableResource):
    """Where publishing goes. The token is read from the environment when it is needed.

    ``endpoint`` goes before that of the experiment and ``HF_ENDPOINT``. With ``dry_run`` the assets
    say what they would send, and send nothing.
    """

    endpoint: str | None = None
    dry_run: bool = False

    def publisher(self, experiment: Experiment) -> Publisher:
        """Return where ``experiment`` publishes; raise `MissingTokenError` without a token."""
        return make_publisher(experiment, endpoint=self.endpoint, dry_run=self.dry_run)


class Workspace(dg.ConfigurableResource):
    """The folder that holds every artifact, as ``MDEL_HOME`` names it.

    ``experiment`` is the name of the experiment that the graph shows.
    """

    root: str
    experiment: str

    @property
    def home(self) -> MdelHome:
        """The folder, with what is known of its insides."""
        return MdelHome(Path(self.root))

    def lineage(self, experiment: Experiment) -> Lineage:
        """Return the artifacts of ``experiment`` in this folder."""
        return self.home.lineage(experiment)
