"""What a model scores on a task: figures with standard errors, as a report's file has them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS_NAME = "results.json"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A metric of one task: its value, and its standard error where the harness has one.

    ``answers`` names the filter that took the answer out of the text; ``none`` is no filter.
    """

    task: str
    metric: str
    answers: str
    value: float
    error: float | None
    is_higher_better: bool | None
    num_items: int


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """What a model scores on a task, or on a group or tag of tasks.

    ``versions`` and ``num_fewshot`` are by task, as the harness tells them.
    """

    name: str
    versions: Mapping[str, Any]
    num_fewshot: Mapping[str, int]
    figures: Sequence[Figure]

    @classmethod
    def of(cls, name: str, found: Mapping[str, Any]) -> "TaskResult":
        """Return the result in what the harness returns for the task ``name``."""
        rows = {**found["results"], **found.get("groups", {})}
        figures = [figure for task in rows for figure in _figures(task, rows[task], found)]
        figures.sort(key=lambda figure: figure.task != name)
        return cls(name, dict(found["versions"]), dict(found["n-shot"]), figures)

    @property
    def main(self) -> list[Figure]:
        """The figure that tables and charts show: of a tag, one for each of its tasks.

        It is the first metric of which more is better, or the first where there is none.
        """
        own = [figure for figure in self.figures if figure.task == self.name] or self.figures
        found: dict[str, Figure] = {}
        for figure in own:
            best = found.setdefault(figure.task, figure)
            if figure.is_higher_better and not best.is_higher_better:
                found[figure.task] = figure
        return list(found.values())


def _figures(task: str, row: Mapping[str, Any], found: Mapping[str, Any]) -> list[Figure]:
    counts = found["n-samples"]
    members = found.get("group_subtasks", {}).get(task) or [task]
    items = sum(counts[each]["effective"] for each in members if each in counts)
    better = found["higher_is_better"].get(task, {})
    listed = [each["metric"] for each in found["configs"].get(task, {}).get("metric_list") or ()]
    figures = []
    for key, value in row.items():
        metric, _, answers = key.partition(",")
        if not answers or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = row.get(f"{metric}_stderr,{answers}")
        figures.append(
            Figure(
                task,
                metric,
                answers,
                float(value),
                float(error) if isinstance(error, int | float) else None,
                better.get(metric),
                int(row.get("sample_len") or items),
            )
        )
    # The harness's own order is that of its code, not of the task's definition.
    return sorted(
        figures,
        key=lambda each: listed.index(each.metric) if each.metric in listed else len(listed),
    )


def write_results(results: Sequence[TaskResult], folder: Path) -> None:
    """Write results as ``results.json``."""
    content = {result.name: dataclasses.asdict(result) for result in results}
    (folder / RESULTS_NAME).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def read_results(folder: Path) -> dict[str, TaskResult]:
    """Return the results in ``results.json``, by task; none without the file."""
    path = folder / RESULTS_NAME
    if not path.exists():
        return {}
    content = json.loads(path.read_text("utf-8"))
    return {
        name: TaskResult(**each | {"figures": [Figure(**figure) for figure in each["figures"]]})
        for name, each in content.items()
    }
