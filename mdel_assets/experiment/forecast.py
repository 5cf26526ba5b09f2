"""The section ``forecast``: probe trainings that tell beforehand whether branching will pay."""

from typing import Annotated

from pydantic import Field

from mdel_assets.experiment.fields import ExpertTraining
from mdel_assets.experiment.section import Section

MAX_PROBE_SHARE = 0.06
_MIN_STEPS = 2


class Forecast(Section):
    """Forecast what experts would gain over one dense model, before they are trained.

    A probe is an expert that ends early: each domain's reads ``probe_share`` of the steps of its
    expert, rounded down, with the experiment's settings and a schedule of that length. At least two
    steps are made, because the first one of a warm-up moves nothing.
    """

    probe_share: Annotated[float, Field(gt=0.0, le=MAX_PROBE_SHARE)] = 0.05

    def probe_training(self, training: ExpertTraining) -> ExpertTraining:
        """Return the settings of a probe, which nothing watches meanwhile."""
        quiet = {"eval_steps": None, "save_steps": None}
        if training.num_epochs is not None:
            length = training.num_epochs * self.probe_share
            return training.model_copy(update=quiet | {"num_epochs": length})
        # As close to a whole step as this is one: 0.05 * 60 is a little less than 3.
        steps = max(_MIN_STEPS, int(training.num_steps * self.probe_share + 1e-9))
        return training.model_copy(update=quiet | {"max_steps": steps})
