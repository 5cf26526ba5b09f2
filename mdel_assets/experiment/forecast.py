"""The section ``forecast``: probe trainings that tell beforehand whether branching will pay."""

from typing import Annotated

from pydantic import Field

from mdel_assets.experiment.section import Section

MAX_PROBE_SHARE = 0.06


class Forecast(Section):
    """Forecast what experts would gain over one dense model, before they are trained.

    A probe is an expert that ends early: each domain's reads ``probe_share`` of the steps of its
    expert, rounded down, with the experiment's settings and a schedule of that length.
    """

    probe_share: Annotated[float, Field(gt=0.0, le=MAX_PROBE_SHARE)] = 0.05
