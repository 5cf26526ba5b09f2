"""Findings of a matrix: experts and merges against seed and baselines, and which model to choose.

Every difference is paired and has a 95 % interval. If the seed or a baseline wins, the findings say
so. If a difference has too few documents, they name no winner. Domains that some model was not
scored on are left out, and named.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mdel_assets.evaluation.sample_sizes import left_out, too_few
from mdel_assets.experiment.model_keys import DENSE, DENSE_ONE, SEED, Family, ModelKey
from mdel_assets.scoring.estimates import TOO_FEW

if TYPE_CHECKING:
    from mdel_assets.evaluation.matrix import Matrix, Place
    from mdel_assets.scoring.estimates import Estimate

_RIVALS = (SEED, DENSE_ONE, DENSE)
_NUM_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Best:
    """The best model on one domain, and those that are not clearly worse, best first."""

    dataset: str
    model: str
    bits_per_byte: float
    change: "Estimate"
    close: list[str]


def findings(matrix: "Matrix") -> list[str]:
    """Return sentences about experts and merged models on the first split."""
    split = matrix.splits[0]
    experts = own_domains(matrix, split)
    lines = [*left_out(matrix, matrix.splits), *too_few(matrix, matrix.splits)]
    for rival in rivals(matrix):
        changes = {place[0]: matrix.difference([place], [_as(rival, place)]) for place in experts}
        lines.append(_experts_against(rival, changes, split))
    averages = {a.model: a for a in matrix.averages if a.split == split}
    for model, average in averages.items():
        if any(f.has(model) for f in (Family.MERGED, Family.MIXTURE, Family.DENSE)):
            lines.append(
                f"`{model}` on average over domains: {verdict(average.change, than='the seed')}."
            )
    if averages:
        own = [average for model, average in averages.items() if not Family.REFERENCE.has(model)]
        best = min(own, key=lambda average: average.macro.value)
        doubt = "" if best.macro.is_enough else f" ({TOO_FEW} to tell it from the next)"
        lines.append(
            f"Best single model on average: `{best.model}`, {best.macro.value:.4f} bits per byte"
            f"{doubt}."
        )
    return [*lines, matrix.intervals_in_words]


def _experts_against(rival: str, changes: "Mapping[str, Estimate]", split: str) -> str:
    """Return how many experts are better than ``rival`` on their own domain, as a sentence."""
    than = "the seed" if rival == SEED else f"`{rival}`"
    judged = {model: change for model, change in changes.items() if change.is_enough}
    if not judged:
        return (
            f"{TOO_FEW.capitalize()} to tell whether experts are better than {than} on their own "
            f"domain (`{split}`)."
        )
    line = (
        f"{sum(change.is_better for change in judged.values())} of {len(judged)} experts are "
        f"better than {than} on their own domain by more than the interval (`{split}`)"
    )
    if worse := [model for model, change in judged.items() if change.is_worse]:
        line += f"; clearly worse: {', '.join(worse)}"
    if others := [model for model in changes if model not in judged]:
        line += f"; {TOO_FEW} to tell: {', '.join(others)}"
    return f"{line}."


def rivals(matrix: "Matrix") -> list[str]:
    """Return the models that experts and merges are compared with."""
    return [model for model in _RIVALS if model in matrix.models]


def comparisons(matrix: "Matrix", split: str) -> dict[str, dict[str, "Estimate"]]:
    """Return differences in bits per byte by compared model or group, then by rival.

    Experts count each on its own domain, merged models and mixtures on the average over domains.
    """
    own = own_domains(matrix, split)
    sides: dict[str, list[Place]] = {}
    if own:
        sides["experts, each on its own domain"] = own
    for model in matrix.models:
        if Family.MERGED.has(model) or Family.MIXTURE.has(model):
            sides[f"{model}, all domains"] = matrix.places(model, split)
    return {
        name: {
            rival: matrix.difference(places, [_as(rival, place) for place in places])
            for rival in rivals(matrix)
        }
        for name, places in sides.items()
        if places
    }


def best_models(matrix: "Matrix", split: str) -> list[Best]:
    """Return the best model of each compared domain, against the seed."""
    found = []
    for dataset in matrix.compared(split):
        bits = {
            model: matrix.bits[model, dataset, split]
            for model in matrix.models
            if (model, dataset, split) in matrix.bits and not Family.REFERENCE.has(model)
        }
        ranked = sorted(bits, key=lambda model: bits[model])
        places: list[Place] = [(model, dataset, split) for model in ranked]
        close = [p[0] for p in places[1:] if not matrix.difference([p], places[:1]).is_worse]
        change = matrix.difference(places[:1], [(SEED, dataset, split)])
        found.append(Best(dataset, ranked[0], bits[ranked[0]], change, close))
    return found


def comparison_rows(matrix: "Matrix", split: str, *, mark: bool) -> list[list[str]]:
    """Return the table of `comparisons`, its header first."""
    rows = [["Bits per byte against", *rivals(matrix)]]
    for name, changes in comparisons(matrix, split).items():
        rows.append([name, *(_signed(change, mark=mark) for change in changes.values())])
    return rows


def best_rows(matrix: "Matrix", split: str) -> list[list[str]]:
    """Return the table of `best_models`, its header first."""
    rows = [["Domain", "best", "bits per byte", "against the seed", "not clearly worse"]]
    for best in best_models(matrix, split):
        named = ", ".join(best.close[:_NUM_NAMED]) or "none"
        rest = len(best.close) - _NUM_NAMED
        close = f"{named} and {rest} more" if rest > 0 else named
        rows.append(
            [
                best.dataset,
                best.model,
                f"{best.bits_per_byte:.4f}",
                _signed(best.change, mark=True),
                close if best.change.is_enough else TOO_FEW,
            ]
        )
    return rows


def own_domains(matrix: "Matrix", split: str) -> "list[Place]":
    """Return each expert's place on its own domain, if that is compared."""
    places = [
        (model, key.name, split)
        for model in matrix.models
        if (key := ModelKey.parse(model)).family is Family.EXPERT
    ]
    known = matrix.compared(split)
    return [place for place in places if place in matrix.bits and place[1] in known]


def verdict(change: "Estimate", *, than: str) -> str:
    """Return whether a change is an improvement on ``than``, with its interval, as a phrase."""
    shown = f"{change.value:+.4f} bits per byte against {than} {change.bounds}"
    if not change.is_enough:
        return f"{TOO_FEW} to tell, {shown}"
    if change.is_better:
        return f"better, {shown}"
    return f"worse, {shown}" if change.is_worse else f"no clear difference, {shown}"


def _as(rival: str, place: "Place") -> "Place":
    return (rival, *place[1:])


def _signed(change: "Estimate", *, mark: bool) -> str:
    if not change.is_enough:
        return f"{change.signed} ({TOO_FEW})"
    return change.marked(change.signed, bold=mark)
