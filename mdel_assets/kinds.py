"""All kinds of artifact, in the order of the line: later ones are made from earlier ones."""

from mdel_assets.data.kinds import KINDS as DATA
from mdel_assets.evaluation.kinds import KINDS as EVALUATION
from mdel_assets.forecasting.kinds import KINDS as FORECASTING
from mdel_assets.generation.kinds import KINDS as GENERATION
from mdel_assets.line.kind import Kind
from mdel_assets.line.replicates import with_replicates
from mdel_assets.merging.kinds import KINDS as MERGING
from mdel_assets.publishing.kinds import KINDS as PUBLISHING
from mdel_assets.reporting.kinds import KINDS as REPORTING
from mdel_assets.tasks.kinds import KINDS as TASKS
from mdel_assets.training.kinds import KINDS as TRAINING

_SEED_MODEL, *_TRAINED = TRAINING
# A forecast needs the seed alone, and comes before what it decides on.
KINDS: tuple[Kind, ...] = with_replicates(
    (
        *(*DATA, _SEED_MODEL, *FORECASTING, *_TRAINED),
        *(*MERGING, *EVALUATION, *GENERATION, *TASKS, *REPORTING, *PUBLISHING),
    )
)
