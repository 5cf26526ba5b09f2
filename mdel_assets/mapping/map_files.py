"""The files of a map: ``map.json``, a table in Markdown, and a chart."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdel_assets.evaluation.outcomes import CONTENDERS, ENSEMBLE, MEAN, MIXTURE, OTHER, Outcome
from mdel_assets.experiment.model_keys import DENSE
from mdel_assets.scoring.markdown_table import as_markdown
from mdel_assets.store.durable_files import write_bytes_atomically, write_text_atomically

JSON_NAME, MARKDOWN_NAME, CHART_NAME = "map.json", "map.md", "map.png"
# What the chart draws: a search is one of the other merges.
_DRAWN = {ENSEMBLE: "tab:blue", MEAN: "tab:orange", OTHER: "tab:red", MIXTURE: "tab:green"}
_UNSURE = "no clear difference"
_HEADER = """# Where branching pays

Bits per byte against `dense`, one model that read as many tokens as all experts together: less than
zero is better than `dense`. Figures are means of domains on held-out documents, each domain
counting once, with paired 95 % intervals; those of several trainings hold documents and trainings,
those of one training hold documents alone. In **bold** if the interval excludes zero. *Seed* is
the share of the tokens of seed and experts that the seed read, *tokens* are both in thousands,
*weights* are the model's in thousands. *Divergence* is by how many percent experts are better than
the seed, each on its own domain. *Other merge* is the better of all merges besides the mean,
chosen by the figure that is shown.
"""


def read_map(folder: Path) -> dict[str, Outcome]:
    """Return the outcomes that ``map.json`` in ``folder`` holds by setting; none without a file."""
    path = folder / JSON_NAME
    if not path.is_file():
        return {}
    content = json.loads(path.read_text("utf-8"))
    return {row["setting"]["name"]: Outcome.of(row) for row in content["settings"]}


def map_as_json(
    family: str, outcomes: Sequence[Outcome], *, missing: Mapping[str, str]
) -> dict[str, Any]:
    """Return the map as ``map.json`` has it."""
    return {
        "family": family,
        "settings": [outcome.as_json() for outcome in outcomes],
        "missing": dict(missing),
        "findings": map_findings(outcomes),
    }


def write_map(
    family: str, outcomes: Sequence[Outcome], folder: Path, *, missing: Mapping[str, str]
) -> None:
    """Write the three files into ``folder``; ``missing`` says by setting why it is not there."""
    from mdel_assets.charts import to_png

    folder.mkdir(parents=True, exist_ok=True)
    content = map_as_json(family, outcomes, missing=missing)
    write_text_atomically(folder / JSON_NAME, json.dumps(content, indent=2) + "\n")
    write_text_atomically(folder / MARKDOWN_NAME, map_markdown(outcomes, missing=missing))
    if outcomes:
        write_bytes_atomically(folder / CHART_NAME, to_png(map_figure(outcomes)))


def map_markdown(outcomes: Sequence[Outcome], *, missing: Mapping[str, str]) -> str:
    """Return the table, and what it shows in sentences."""
    parts = [_HEADER, *as_markdown(_rows(outcomes)), ""]
    parts += [f"- {line}" for line in map_findings(outcomes)]
    parts += [f"- Not on the map: `{name}`, {why}." for name, why in missing.items()]
    return "\n".join(parts) + "\n"


def _rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    told = ["setting", "seed", "tokens", "weights", "domains", "general", "layers", "rate"]
    rows = [[*told, "trainings", "`dense`", "divergence", *CONTENDERS]]
    for outcome in outcomes:
        setting = outcome.setting
        rows.append(
            [
                setting.name,
                f"{setting.seed_share:.0%}",
                f"{(setting.seed_tokens + setting.expert_tokens) / 1000:,.0f}",
                f"{setting.num_weights / 1000:,.0f}",
                str(setting.num_domains),
                f"{setting.general_ratio:g}",
                setting.trained_layers,
                f"{setting.learning_rate:g}",
                str(outcome.num_trainings),
                f"{outcome.bits[DENSE]:.4f}",
                f"{outcome.divergence:.1f} %",
                *(_cell(outcome, name) for name in CONTENDERS),
            ]
        )
    return rows


def _cell(outcome: Outcome, contender: str) -> str:
    if contender not in outcome.changes:
        return "none"
    change = outcome.changes[contender]
    shown = change.estimate.marked(change.estimate.signed)
    return f"{shown} `{change.model}`" if contender == OTHER else shown


def map_findings(outcomes: Sequence[Outcome]) -> list[str]:
    """Return sentences: in how many settings each contender is better or worse than `dense`."""
    found = []
    for name in CONTENDERS:
        own = [outcome.changes[name].estimate for outcome in outcomes if name in outcome.changes]
        if not own:
            continue
        better, worse = (sum(e.is_better for e in own), sum(e.is_worse for e in own))
        found.append(
            f"{name}: better than `dense` in {better} of {len(own)} settings, worse in {worse}, "
            f"{_UNSURE} in {len(own) - better - worse}."
        )
    return found


def map_figure(outcomes: Sequence[Outcome]) -> Any:
    """Return the change of every contender against `dense`, one row per setting."""
    from matplotlib.lines import Line2D

    from mdel_assets.charts import figure

    drawn = figure(width=7.0, height=1.6 + 0.26 * len(outcomes))
    axes = drawn.add_subplot()
    for place, outcome in enumerate(outcomes):
        there = [name for name in _DRAWN if name in outcome.changes]
        for number, name in enumerate(there):
            estimate = outcome.changes[name].estimate
            height = place + 0.18 * (number - (len(there) - 1) / 2)
            colour = _DRAWN[name]
            axes.plot([estimate.low, estimate.high], [height] * 2, color=colour, linewidth=1.4)
            axes.plot([estimate.value], [height], "o", color=colour, markersize=3.5)
    axes.axvline(0.0, color="black", linewidth=0.8)
    labels = [
        f"{o.setting.name} ({o.num_trainings})" if o.num_trainings > 1 else o.setting.name
        for o in outcomes
    ]
    axes.set_yticks(range(len(outcomes)), labels, fontsize=7)
    axes.set_ylim(len(outcomes) - 0.5, -0.5)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_xlabel(
        "bits per byte against dense of equal compute (left: better), with 95 % intervals;\n"
        "in brackets: trainings, where intervals hold more than one",
        fontsize=8,
    )
    handles = [
        Line2D([], [], marker="o", color=colour, label=name)
        for name, colour in _DRAWN.items()
        if any(name in outcome.changes for outcome in outcomes)
    ]
    drawn.suptitle("Where branching pays", fontsize=10)
    drawn.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False
    )
    return drawn
