"""What experts were worth in one setting: everything against `dense`, which read as much.

The change of a model or an ensemble is its bits per byte minus those of `dense`, both the mean of
domains on the same held-out documents, paired; less than zero is better. The gain is the same in
percent of the bits per byte of `dense`, and more than zero is better.

A specialist's divergence is by how many percent its bits per byte on its own domain are lower than
the seed's; that of a setting is the mean over its experts. (Kumaresan 2026, arXiv 2603.22755.)
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.model_keys import DENSE, POSTERIOR, SEED, Family
from mdel_assets.line.lineage import Lineage
from mdel_assets.scoring.estimates import Estimate
from mdel_assets.training.results import ExpertResult, SeedResult

if TYPE_CHECKING:
    from mdel_assets.evaluation.matrix import AverageRow, Matrix

ENSEMBLE, MEAN, SEARCH, OTHER, MIXTURE = "ensemble", "mean", "search", "other merge", "mixture"
# What is compared with `dense`, in the order of tables. `OTHER` is the best merge that is no mean.
CONTENDERS = (ENSEMBLE, MEAN, SEARCH, OTHER, MIXTURE)


@dataclasses.dataclass(frozen=True)
class Change:
    """The bits per byte of ``model`` minus those of `dense`, with the 95 % interval."""

    model: str
    estimate: Estimate


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where on the map a setting lies.

    ``seed_tokens``, ``expert_tokens`` (of all experts together) and ``dense_tokens`` were read in
    training, by the records; ``num_weights`` are the model's.
    """

    name: str
    seed_tokens: int
    expert_tokens: int
    dense_tokens: int
    num_weights: int
    num_domains: int
    general_ratio: float
    trained_layers: str
    learning_rate: float

    @property
    def seed_share(self) -> float:
        """The share of the tokens of seed and experts that the seed read."""
        return self.seed_tokens / (self.seed_tokens + self.expert_tokens)

    @property
    def tokens_per_weight(self) -> float:
        """Tokens of seed and experts for each weight of the model."""
        return (self.seed_tokens + self.expert_tokens) / self.num_weights


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One setting, measured.

    ``fingerprint`` is that of the ensemble report that it was read from. ``bits`` are bits per byte
    of `dense`, the seed, and the best single expert, the mean of domains. ``changes`` are by
    contender; ``divergence`` is the experts' own, in percent.
    """

    setting: Setting
    fingerprint: str
    num_trainings: int
    bits: Mapping[str, float]
    changes: Mapping[str, Change]
    divergence: float

    def gain(self, contender: str) -> float | None:
        """Return what a contender gained over `dense` in percent; None where it is not there."""
        change = self.changes.get(contender)
        return None if change is None else -100 * change.estimate.value / self.bits[DENSE]

    @property
    def gain_over_best_expert(self) -> float:
        """By how many percent the ensemble's bits per byte are below the best single expert's."""
        ensemble = self.bits[DENSE] + self.changes[ENSEMBLE].estimate.value
        return 100 * (1 - ensemble / self.bits["best expert"])

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as JSON has it, with what is derived from it."""
        content = dataclasses.asdict(self)
        content["setting"] |= {
            "seed_share": self.setting.seed_share,
            "tokens_per_weight": self.setting.tokens_per_weight,
        }
        content["gains"] = {name: self.gain(name) for name in self.changes}
        content["gain_over_best_expert"] = self.gain_over_best_expert
        return content

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """Return what `as_json` wrote."""
        fields = {field.name for field in dataclasses.fields(Setting)}
        kept = {key: value for key, value in content["setting"].items() if key in fields}
        changes = {
            name: Change(change["model"], Estimate(**change["estimate"]))
            for name, change in content["changes"].items()
        }
        return cls(
            Setting(**kept),
            content["fingerprint"],
            content["num_trainings"],
            content["bits"],
            changes,
            content["divergence"],
        )


def read_outcome(lineage: Lineage, setting: str) -> Outcome:
    """Return what a finished setting shows on its first split.

    Raises:
        MdelError: something of it is missing.

    """
    from mdel_assets.evaluation.ensemble_steps import read_ensembles

    record = lineage.artifact("ensemble_report").require()
    return outcome_of(
        read_ensembles(lineage),
        setting_of(lineage, setting),
        experiment=lineage.experiment,
        fingerprint=record.fingerprint,
    )


def outcome_of(
    matrix: "Matrix", setting: Setting, *, experiment: Experiment, fingerprint: str
) -> Outcome:
    """Return what the matrix of models and ensembles shows of a setting on its first split."""
    split = matrix.splits[0]
    rows = {row.model: row for row in matrix.averages if row.split == split}
    experts = [rows[key] for key in Family.EXPERT.keys(matrix.datasets) if key in rows]
    best = min(experts, key=_bits)
    dense = rows[DENSE]
    changes = {
        name: Change(row.model, row.against(dense))
        for name, row in _contenders(rows, experiment).items()
    }
    own = [(Family.EXPERT.key(d), d, split) for d in matrix.compared(split)]
    fallen = [
        100 * (1 - matrix.bits[place] / matrix.bits[SEED, place[1], split])
        for place in own
        if place in matrix.bits
    ]
    return Outcome(
        setting,
        fingerprint,
        matrix.num_trainings,
        {DENSE: _bits(dense), SEED: _bits(rows[SEED]), "best expert": _bits(best)},
        changes,
        sum(fallen) / len(fallen),
    )


def setting_of(lineage: Lineage, name: str) -> Setting:
    """Return where a setting lies, by the records of its seed, experts and baseline."""
    experiment = lineage.experiment
    seed = SeedResult.of(lineage.artifact("seed_model").require().details)
    layers = experiment.training.trained_layers
    experts = lineage.present_domains()
    return Setting(
        name=name,
        seed_tokens=seed.history.num_tokens if seed.history else 0,
        expert_tokens=sum(_tokens(lineage, "expert_model", domain) for domain in experts),
        dense_tokens=_tokens(lineage, "dense_baseline"),
        num_weights=seed.num_parameters,
        num_domains=len(experts),
        general_ratio=experiment.mixture.general_ratio,
        trained_layers=layers if isinstance(layers, str) else ", ".join(map(str, layers)),
        learning_rate=experiment.training.learning_rate,
    )


def _tokens(lineage: Lineage, kind: str, key: str = "") -> int:
    return ExpertResult.of(lineage.artifact(kind, key).require().details).history.num_tokens


def _contenders(
    rows: "Mapping[str, AverageRow]", experiment: Experiment
) -> "dict[str, AverageRow]":
    """Return the rows that are compared with `dense`, by contender."""
    means = [name for name in experiment.merges if is_mean_of_all(experiment, name)]
    merged = {name: Family.MERGED.key(name) for name in experiment.merges}
    searched = [merged[name] for name in experiment.searched_recipes]
    others = [key for name, key in merged.items() if name not in means]
    found = {
        ENSEMBLE: [POSTERIOR],
        MEAN: [merged[name] for name in means],
        SEARCH: searched,
        OTHER: others,
        MIXTURE: Family.MIXTURE.keys(experiment.mixtures),
    }
    return {
        name: min(there, key=_bits)
        for name, keys in found.items()
        if (there := [rows[key] for key in keys if key in rows])
    }


def is_mean_of_all(experiment: Experiment, recipe: str) -> bool:
    """Whether a recipe is the plain mean of all experts."""
    merge = experiment.merges[recipe]
    is_all: Sequence[str] = [model for model in merge.model_names if model != merge.base]
    return merge.merge_method == "linear" and list(is_all) == ["expert:*"]


def _bits(row: "AverageRow") -> float:
    return row.macro.value
