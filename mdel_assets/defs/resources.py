"""Resources: where the graph runs and what it reaches. Nothing here enters a fingerprint.

What says where artifacts, text and figures go is no field: it comes from the experiment and the
environment. Whoever may start a run could send them anywhere by its run configuration otherwise.
How models are trained, `Compute`, has a module of its own.
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
    """Weights & Biases. ``mode`` is online, offline, disabled, or auto: online where a key is."""

    folder: ClassVar[str] = ""

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
    """Where publishing goes: the experiment and ``HF_ENDPOINT`` say it.

    The token is read from the environment when it is needed. With ``dry_run`` the assets say what
    they would send, and send nothing.
    """

    dry_run: bool = False

    def publisher(self, experiment: Experiment) -> Publisher:
        """Return where ``experiment`` publishes; raise `MissingTokenError` without a token."""
        return make_publisher(experiment, dry_run=self.dry_run)


class Workspace(dg.ConfigurableResource):
    """The folder that holds every artifact, as ``MDEL_HOME`` names it.

    ``experiment`` is the name of the experiment that the graph shows.
    """

    root: ClassVar[str] = ""

    experiment: str

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Label the run, as every asset's step begins with this."""
        if context.instance is not None and context.run is not None:
            label_run(context.instance, context.run, experiment=self.experiment)

    @property
    def home(self) -> MdelHome:
        """The folder, with what is known of its insides."""
        return MdelHome(Path(self.root))

    def lineage(self, experiment: Experiment) -> Lineage:
        """Return the artifacts of ``experiment`` in this folder."""
        return self.home.lineage(experiment)


def resources_of(experiment: Experiment, home: MdelHome) -> dict[str, dg.ConfigurableResource]:
    """Return the resources of an experiment's graph over the artifacts in ``home``.

    Dagster makes each anew from run configuration: what that must not change is its class's.
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
