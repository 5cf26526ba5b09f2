"""What Dagster loads: the definitions of the experiment that the environment names.

Dagster calls `defs` when it loads the code location; only then are ``MDEL_EXPERIMENT`` and
``MDEL_HOME`` read. `mdel_assets.defs.graph` builds them.
"""

import dagster as dg

from mdel_assets.defs.failures import in_words
from mdel_assets.defs.graph import build_definitions
from mdel_assets.defs.line_job import line_job
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome, experiment_name


def with_line_job(experiment: Experiment, home: MdelHome) -> dg.Definitions:
    """Return the graph of one experiment together with the job that runs the whole line.

    The job builds the graph anew while it runs, so the graph itself is without it.
    """
    graph = build_definitions(experiment, home)
    return dg.Definitions.merge(graph, dg.Definitions(jobs=[line_job(experiment, home)]))


@dg.definitions
def defs() -> dg.Definitions:
    """Return the definitions that the environment asks for.

    Of a mistake the page of the code location shows what a step's page does: the sentence.
    """
    found: dg.Definitions = _definitions()
    return found


@in_words
def _definitions() -> dg.Definitions:
    return with_line_job(load_experiment(experiment_name()), MdelHome.from_environment())
