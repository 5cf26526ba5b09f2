"""Trainings as the page shows them: all experts' curves together, their losses, and the costs."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mdel_assets.experiment.model_keys import Family
from mdel_assets.line.kind import Kind
from mdel_assets.line.lineage import Lineage
from mdel_assets.reporting.made_of import Records, of_kind
from mdel_assets.store.records import Record
from mdel_assets.training.results import ExpertResult, history_of
from mdel_assets.training.time_left import TRAINING_OPERATIONS

# As many points of a curve as are told apart; the line is their mean between two of them.
_MAX_POINTS = 80
# Inches; the height that a curve's label needs.
_WIDTH, _HEIGHT, _LABEL_HEIGHT = 5.6, 3.4, 0.19
_FONT = 10
# Colours that are told apart with any sight, as the page's variables; then other strokes of them.
_COLOURS = ("#0072b1", "#d55e01", "#009e72", "#cc79a6", "#8a6d01", "#57b4e8")
_VARIABLES = ("--blue", "--orange", "--green", "--pink", "--ochre", "--sky")
_STROKES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1, 1.5)))


@dataclasses.dataclass(frozen=True)
class LossRow:
    """An expert's losses on held-out text of its domain, in nats per token, and its training."""

    domain: str
    num_tokens: int
    num_epochs: float
    before: float | None
    after: float | None

    @property
    def change(self) -> float | None:
        """What training changed; negative is better."""
        return None if self.before is None or self.after is None else self.after - self.before


@dataclasses.dataclass(frozen=True)
class CostRow:
    """What artifacts of one kind took: ``operations`` are about 6 for each parameter and token."""

    what: str
    count: int
    num_tokens: int
    operations: float
    size_bytes: int


@dataclasses.dataclass(frozen=True)
class Trainings:
    """``curves`` is an SVG element, empty without a curve; ``costs`` end with their sum."""

    curves: str
    losses: Sequence[LossRow]
    costs: Sequence[CostRow]


def trainings_of(lineage: Lineage, records: Records) -> Trainings:
    """Return what ``records``, those of models and of all else, tell."""
    results = {
        domain: ExpertResult.of(record.details)
        for domain, record in of_kind(lineage, records, "expert_model").items()
    }
    losses = [
        LossRow(
            domain,
            result.history.num_tokens,
            result.history.num_epochs,
            result.losses_before.get("validation_domain"),
            result.losses_after.get("validation_domain"),
        )
        for domain, result in results.items()
    ]
    return Trainings(_curves(results), losses, costs_of(lineage, records))


def _curves(results: Mapping[str, ExpertResult]) -> str:
    curves = {d: _thinned(r.history.curves.get("loss", [])) for d, r in results.items()}
    return curves_svg({domain: points for domain, points in curves.items() if points})


def curves_svg(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Return all curves in one chart, in the page's colours; empty without any."""
    from mdel_assets.charts import to_svg

    if not curves:
        return ""
    title = f"Training loss of {len(curves)} experts over steps, in nats per token"
    svg = to_svg(curves_figure(curves), name="losses", title=title)
    for colour, variable in zip(_COLOURS, _VARIABLES, strict=True):
        svg = svg.replace(colour, f"var({variable})")
    return svg


def curves_figure(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Any:
    """Return a matplotlib figure of (step, loss) points by name; ends are labelled at the right."""
    from mdel_assets.charts import figure

    height = max(_HEIGHT, 0.8 + _LABEL_HEIGHT * len(curves))
    drawn = figure(width=_WIDTH, height=height)
    axes = drawn.add_subplot()
    for number, (name, points) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        stroke = _STROKES[number // len(_COLOURS) % len(_STROKES)]
        marker = "o" if len(points) < 3 else None
        steps, losses = zip(*points, strict=True)
        axes.plot(steps, losses, color=colour, linestyle=stroke, lw=1.4, marker=marker, label=name)
    axes.margins(x=0.01)
    axes.set_xlabel("step", fontsize=_FONT)
    axes.set_ylabel("nats per token", fontsize=_FONT)
    axes.tick_params(labelsize=_FONT)
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _label_ends(axes, height=height)
    return drawn


def _label_ends(axes: Any, *, height: float) -> None:
    """Write each line's name beside its end, moved up or down so that no two overlap."""
    bottom, top = axes.get_ylim()
    gap = (top - bottom) * _LABEL_HEIGHT / (height - 0.8)
    lines = sorted(axes.lines, key=lambda line: float(line.get_ydata()[-1]), reverse=True)
    wanted = [float(line.get_ydata()[-1]) for line in lines]
    places = _apart(wanted, gap=gap, low=bottom + gap / 2, high=top - gap / 2)
    for line, at, place in zip(lines, wanted, places, strict=True):
        end = float(line.get_xdata()[-1])
        axes.annotate(
            str(line.get_label())[:24],
            (end, at),
            xytext=(1.05, place),
            textcoords=axes.get_yaxis_transform(),
            fontsize=_FONT,
            va="center",
            parse_math=False,
            arrowprops={
                "arrowstyle": "-",
                "color": line.get_color(),
                "lw": 0.8,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def _apart(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Return places, from the highest down, at least ``gap`` apart and near the ``wanted`` ones."""
    places = []
    ceiling = high
    for place in wanted:
        places.append(min(place, ceiling))
        ceiling = places[-1] - gap
    floor = low
    for number in range(len(places) - 1, -1, -1):
        places[number] = max(places[number], floor)
        floor = places[number] + gap
    return places


def _thinned(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Return at most ``_MAX_POINTS`` points: means of neighbours, at the last one's step."""
    size = -(-len(points) // _MAX_POINTS)
    parts = [points[first : first + size] for first in range(0, len(points), max(1, size))]
    return [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]


def costs_of(lineage: Lineage, records: Records) -> list[CostRow]:
    """Return what the artifacts of ``records`` took, kind by kind, and the sum.

    Files that artifacts share, as experts share the seed's, count once.
    """
    seen: set[str] = set()
    rows: dict[str, CostRow] = {}
    for name in lineage.kinds():
        kind = lineage.registry[name]
        if own := of_kind(lineage, records, name):
            what = _words_of(kind)
            rows[what] = _sum(what, [*_kept(rows, what), _cost(what, own.values(), seen)])
    return [*rows.values(), _sum("all together", list(rows.values()))]


def _kept(rows: Mapping[str, CostRow], what: str) -> list[CostRow]:
    return [rows[what]] if what in rows else []


def _words_of(kind: Kind) -> str:
    """Return the name of a kind's row; further replicates are counted with the line's."""
    return (kind.replicate_of or kind.name).replace("_", " ")


def _cost(what: str, records: Iterable[Record], seen: set[str]) -> CostRow:
    count = num_tokens = size = 0
    operations = 0.0
    for record in records:
        count += 1
        for file in record.files.values():
            size += 0 if file["xxh3"] in seen else int(file["size_bytes"])
            seen.add(file["xxh3"])
        if history := history_of(record.details):
            tokens = history.num_tokens
            num_tokens += tokens
            operations += float(TRAINING_OPERATIONS * _num_parameters(record.details) * tokens)
    return CostRow(what, count, num_tokens, operations, size)


def _num_parameters(details: Mapping[str, Any]) -> int:
    if "num_parameters" in details:
        return int(details["num_parameters"])
    return int(details["num_trained_parameters"]) + int(details["num_frozen_parameters"])


def _sum(what: str, rows: Sequence[CostRow]) -> CostRow:
    return CostRow(
        what,
        sum(row.count for row in rows),
        sum(row.num_tokens for row in rows),
        sum(row.operations for row in rows),
        sum(row.size_bytes for row in rows),
    )


def models_in_words(lineage: Lineage) -> str:
    """Return how many models of each family there are, as ``6 experts, 1 merged model``."""
    words = {
        Family.EXPERT: "expert{s}",
        Family.DENSE: "dense baseline{s}",
        Family.RANDOM: "expert{s} of a random split",
        Family.VARIANT: "variant{s} of experts",
        Family.MERGED: "merged model{s}",
        Family.MIXTURE: "mixture{s} of experts",
        Family.REFERENCE: "reference model{s}",
    }
    models = lineage.present_models()
    counts = {name: sum(map(family.has, models)) for family, name in words.items()}
    return ", ".join(
        f"{count} {name.format(s='' if count == 1 else 's')}"
        for name, count in counts.items()
        if count
    )
