"""Resources: where the graph runs and which services it uses. Nothing here enters a fingerprint.

The destinations of artifacts, text and figures are not fields: they come from the experiment and
the environment. Otherwise anyone who can start a run could send them anywhere by run configuration.
`Compute`, which says where models are trained, has its own module.
"""

from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
from pydantic import create_model

from mdel_assets.defs.run_labels import label_run
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.home import MdelHome, place_in_words
from mdel_assets.line.lineage import Lineage
from mdel_assets.publishing.publisher import Publisher, make_publisher
from mdel_assets.tracking import Tracker, tracking_mode


class Tracking(dg.ConfigurableResource):
    """Weights & Biases. ``mode`` is online, offline, disabled, or auto (online with a key)."""

    folder: ClassVar[str] = ""

    mode: str = "auto"

    def tracker(self, experiment: Experiment) -> Tracker:
        """Return the tracker for the runs of ``experiment``."""
        mode: Any = tracking_mode() if self.mode == "auto" else self.mode
        return Tracker(
            project=experiment.tracking.wandb_project,
            entity=experiment.tracking.wandb_entity,
            group=experiment.name,
            folder=Path(self.folder),
            mode=mode,
        )


class HubResource(dg.ConfigurableResource):
    """The Hub or folder to publish to, as the experiment and ``HF_ENDPOINT`` set it.

    The token is read from the environment when it is needed. With ``dry_run`` the assets list what
    they would send, and send nothing.
    """

    dry_run: bool = False

    def publisher(self, experiment: Experiment) -> Publisher:
        """Return the publisher of ``experiment``; raise `MissingTokenError` without a token."""
        return make_publisher(experiment, dry_run=self.dry_run)


class Workspace(dg.ConfigurableResource):
    """The folder that holds every artifact, as ``MDEL_HOME`` names it.

    ``experiment`` is the name of the experiment that the graph shows.
    """

    root: ClassVar[str] = ""

    experiment: str

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Label the run; every asset's step begins with this call."""
        if context.instance is not None and context.run is not None:
            label_run(context.instance, context.run, experiment=self.experiment)

    @property
    def home(self) -> MdelHome:
        """The folder as an `MdelHome`."""
        return MdelHome(Path(self.root))

    def lineage(self, experiment: Experiment) -> Lineage:
        """Return the artifacts of ``experiment`` in this folder."""
        return self.home.lineage(experiment)


def resources_of(experiment: Experiment, home: MdelHome) -> dict[str, dg.ConfigurableResource]:
    """Return the resources of an experiment's graph over the artifacts in ``home``.

    Dagster rebuilds each resource from run configuration, so values that run configuration must not
    change are attributes of a class.
    """
    workspace = create_model("Workspace", __base__=Workspace)
    workspace.root = str(home.root)
    workspace.__doc__ = place_in_words(root=workspace.root, experiment=experiment.name)
    tracking = create_model("Tracking", __base__=Tracking)
    tracking.folder, tracking.__doc__ = str(home.root), Tracking.__doc__
    return {
        "workspace": workspace(experiment=experiment.name),
        "tracking": tracking(),
        "hub": HubResource(),
    }
