"""The kind of artifact that shows the whole line on one page."""

from collections.abc import Sequence
from typing import Any

from mdel_assets.data.kinds import KINDS as DATA
from mdel_assets.evaluation.kinds import KINDS as EVALUATION
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.forecasting.kinds import KINDS as FORECASTING
from mdel_assets.generation.kinds import KINDS as GENERATION
from mdel_assets.line.kind import Input, Kind
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.replicates import with_replicates
from mdel_assets.merging.kinds import KINDS as MERGING
from mdel_assets.reporting import prices, steps
from mdel_assets.reporting.settings import shown_settings
from mdel_assets.tasks.kinds import KINDS as TASKS
from mdel_assets.training.kinds import KINDS as TRAINING

_LINE = with_replicates(
    (*DATA, *TRAINING, *FORECASTING, *MERGING, *EVALUATION, *GENERATION, *TASKS)
)
_MATRIX = "perplexity_matrix"


def _ends(experiment: Experiment, key: str) -> list[Input]:
    """Return what nothing else is made from: everything before it is found through its records."""
    line = [
        Input(kind.name, each)
        for kind in _LINE
        if kind.is_in(experiment)
        for each in kind.keys(experiment)
    ]
    rows = {kind.name: kind for kind in _LINE}
    taken = {name for kind, own in line for name, _ in rows[kind].inputs(experiment, own)}
    return [entry for entry in line if entry.kind not in taken]


def _made(lineage: Lineage, inputs: Sequence[Input]) -> list[Input]:
    """Leave out what is not there: absent domains, what was never made, what failed.

    The matrix has to be there: the page is read from it.
    """
    keys = {kind: set(lineage.keys(kind)) for kind in dict.fromkeys(kind for kind, _ in inputs)}
    return [
        entry
        for entry in inputs
        if entry.kind == _MATRIX
        or (entry.key in keys[entry.kind] and lineage.artifact(*entry).is_made())
    ]


def _settings(lineage: Lineage, key: str) -> dict[str, Any]:
    return {"settings": shown_settings(lineage.experiment)}


KINDS = (
    Kind(
        "experiment_report",
        place="reports",
        record="report",
        code_version="1",
        inputs=_ends,
        takes=_made,
        takes_what_is_there=True,
        config=_settings,
        write=steps.write_report,
        price=prices.of_report,
        is_report=True,
        follows_inputs=True,
    ),
)
