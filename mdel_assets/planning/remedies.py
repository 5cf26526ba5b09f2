"""What would change a plan's bill, and by how much: computed by planning it with that change."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.section import Section
from mdel_assets.line.lineage import Lineage
from mdel_assets.planning.clock import Clock
from mdel_assets.planning.in_words import amount_in_words, duration_in_words, size_in_words
from mdel_assets.planning.placements import Placements
from mdel_assets.planning.plan import StagePlan, plan_stages
from mdel_assets.planning.wanted import Wanted
from mdel_assets.training.sizes import Sizes

S = TypeVar("S", bound=Section)
# Changes that save less than this share of the time and of the disk are not worth a line.
_WORTH_A_LINE = 0.02
_FEWER = 10
_MAX_TOKENS = 100_000


def remedies_of(
    sizes: Sizes,
    wanted: Sequence[Wanted],
    stages: Sequence[StagePlan],
    clock: Clock,
    placements: Placements,
) -> list[str]:
    """Return a sentence for every change that saves much, the largest saving of time first."""
    found = []
    for told, experiment in _changes(sizes):
        other = sizes.of(_with(sizes.lineage, experiment))
        changed = plan_stages(other, _left(wanted, other.lineage), clock, placements)
        saved = [
            sum(getattr(stage, figure) for stage in stages)
            - sum(getattr(stage, figure) for stage in changed)
            for figure in ("seconds", "disk_bytes", "operations")
        ]
        seconds, disk, operations = saved
        total = [sum(s.seconds for s in stages), sum(s.disk_bytes for s in stages)]
        if seconds < _WORTH_A_LINE * total[0] and disk < _WORTH_A_LINE * total[1]:
            continue
        parts = []
        if seconds >= _WORTH_A_LINE * total[0]:
            parts.append(f"{duration_in_words(seconds)} and {amount_in_words(operations)} FLOPs")
        if disk >= _WORTH_A_LINE * total[1]:
            parts.append(f"{size_in_words(disk)} of disk")
        found.append((seconds, f"{told}: saves {', '.join(parts)}"))
    return [line for _, line in sorted(found, key=lambda entry: -entry[0])]


def sharing_in_words(sizes: Sizes) -> str | None:
    """Return what frozen layers below the first trained one save already; None without any."""
    model, experiment = sizes.model, sizes.experiment
    training = experiment.training
    first = model.trained(training.trained_layers).first
    if not first:
        return None
    length = experiment.evaluation.max_length
    share = model.below(1.0, length=length, first=first) / model.forward(1.0, length=length)
    return (
        f"layers below {first} are frozen: scoring runs them once for up to 8 models, which "
        f"saves {7 / 8 * share:.0%} of a scoring's operations (counted above)"
    )


def _changes(sizes: Sizes) -> Iterator[tuple[str, Experiment]]:
    """Yield changes of the experiment that cost less, each in words."""
    experiment, training = sizes.experiment, sizes.experiment.training
    evaluation, baselines = experiment.evaluation, experiment.baselines
    fewer = max(16, evaluation.max_documents // _FEWER)
    yield (
        f"evaluation.max_documents {fewer:,} instead of {evaluation.max_documents:,}",
        _updated(experiment, evaluation=_updated(evaluation, max_documents=fewer)),
    )
    if evaluation.max_tokens is None or evaluation.max_tokens > _MAX_TOKENS:
        yield (
            f"evaluation.max_tokens {_MAX_TOKENS:,}",
            _updated(experiment, evaluation=_updated(evaluation, max_tokens=_MAX_TOKENS)),
        )
    if training.store == "full":
        yield (
            "training.store delta",
            _updated(experiment, training=_updated(training, store="delta")),
        )
    if baselines.random_split:
        fewer_baselines = _updated(baselines, random_split=False)
        yield "baselines.random_split false", _updated(experiment, baselines=fewer_baselines)
    model = sizes.model
    if not model.trained(training.trained_layers).first and model.num_layers > 1:
        half = model.num_layers // 2
        layers = (f"{half}-{model.num_layers - 1}",)
        told = (
            f"training.trained_layers ['{layers[0]}'], so that models share the layers below and "
            f"later epochs read their states from a cache"
        )
        yield told, _updated(experiment, training=_updated(training, trained_layers=layers))
    elif not training.cache_prefix:
        yield (
            "training.cache_prefix true",
            _updated(experiment, training=_updated(training, cache_prefix=True)),
        )


def _updated(section: S, **changes: object) -> S:
    return section.model_copy(update=changes)


def _with(lineage: Lineage, experiment: Experiment) -> Lineage:
    return Lineage(
        experiment,
        root=lineage.root,
        cache=lineage.cache,
        registry=tuple(lineage.registry.values()),
        remote=lineage.remote,
    )


def _left(wanted: Sequence[Wanted], lineage: Lineage) -> list[Wanted]:
    """Return those of the artifacts to make that the changed experiment still has."""
    found = []
    for entry in wanted:
        kind = lineage.registry[entry.kind]
        if kind.is_in(lineage.experiment):
            there = set(kind.keys(lineage.experiment))
            keys = tuple(key for key in entry.keys if key in there)
            found.append(Wanted(entry.kind, keys, entry.num_up_to_date))
    return found
