"""How long the trainings of a line will still take, judged by those of this run.

Counted are floating-point operations of trainings alone. Before a run has trained anything nothing
is said, nor where that was a small part of what is left: other things took its seconds.
"""

import dataclasses
import math
from collections.abc import Sequence

from mdel_assets.data.dataset_counts import DatasetCounts
from mdel_assets.errors import MdelError
from mdel_assets.experiment.fields import Optimization
from mdel_assets.line.lineage import Lineage
from mdel_assets.store.looking_once import looking_once
from mdel_assets.training.results import SeedResult

# For each parameter and token: a product forward, two backward, of a multiplication and a sum each.
TRAINING_OPERATIONS, SCORING_OPERATIONS = 6, 2
# More than so many times what was made is not judged by it.
_MOST_OF_WHAT_WAS_MADE = 100.0
# A guess at text's tokens.
_BYTES_PER_TOKEN = 3


@dataclasses.dataclass
class TimeLeft:
    """The pace of a run so far: operations of its trainings, and the seconds they took."""

    lineage: Lineage
    operations: float = 0.0
    seconds: float = 0.0

    def count(self, kind: str, num_keys: int, seconds: float) -> None:
        """Count ``num_keys`` artifacts of ``kind``, which were made in ``seconds``."""
        if operations := num_keys * _operations_of_training(self.lineage, kind):
            self.operations += operations
            self.seconds += seconds

    @looking_once()
    def of(self, kinds: Sequence[str]) -> float | None:
        """Return the seconds that trainings of ``kinds`` will take, or None where unknown."""
        if not self.operations:
            return None
        try:
            left = sum(
                _operations_of_training(self.lineage, kind)
                * sum(self.lineage.stale(kind, key) is not None for key in self.lineage.keys(kind))
                for kind in kinds
            )
        except MdelError:
            return None
        is_known = math.isfinite(left) and left <= _MOST_OF_WHAT_WAS_MADE * self.operations
        return left * self.seconds / self.operations if is_known else None


def _operations_of_training(lineage: Lineage, kind: str) -> float:
    made_as = lineage.registry[kind].replicate_of or kind
    return 0.0 if lineage.registry[made_as].is_report else operations_of(lineage, kind)


def operations_of(lineage: Lineage, kind: str) -> float:
    """Return the floating-point operations of making one artifact of ``kind``.

    0 if no model is trained or scored; infinite if a training's length is not known beforehand.

    Raises:
        MissingArtifactError: the seed model or a dataset was never made.

    """
    operations = lineage.registry[kind].operations
    return operations(lineage) if operations else 0.0


def of_pretraining(lineage: Lineage) -> float:
    """Return the operations of pretraining the seed; 0 if it is adopted."""
    pretrain = lineage.experiment.seed_model.pretrain
    return _training(lineage, pretrain) if pretrain else 0.0


def of_one_expert(lineage: Lineage) -> float:
    """Return the operations of training one expert, or what has as many tokens."""
    return _training(lineage, lineage.experiment.training)


def of_all_experts(lineage: Lineage) -> float:
    """Return the operations of training as long as all experts together."""
    return len(lineage.present_domains()) * of_one_expert(lineage)


def of_scoring(lineage: Lineage) -> float:
    """Return the operations of scoring one model."""
    num_tokens = evaluation_bytes(lineage) / _BYTES_PER_TOKEN
    return SCORING_OPERATIONS * num_parameters(lineage) * num_tokens


def evaluation_bytes(lineage: Lineage) -> float:
    """Return about how many bytes of text each model is scored on."""
    evaluation = lineage.experiment.evaluation
    total = 0.0
    for domain in lineage.present_domains():
        counts = DatasetCounts.of(lineage.artifact("domain_dataset", domain).require().counts)
        for split in evaluation.splits:
            count = counts.splits[split]
            size = count.num_bytes * min(
                1.0, evaluation.max_documents / max(count.num_documents, 1)
            )
            total += size if evaluation.max_bytes is None else min(size, evaluation.max_bytes)
    return total


def _training(lineage: Lineage, settings: Optimization) -> float:
    if settings.num_epochs is not None:
        return math.inf
    return TRAINING_OPERATIONS * num_parameters(lineage) * settings.num_tokens_read


def num_parameters(lineage: Lineage) -> int:
    """Return how many parameters the seed model, and so every expert, has."""
    return SeedResult.of(lineage.artifact("seed_model").require().details).num_parameters
