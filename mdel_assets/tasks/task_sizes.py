"""How much a task asks of a model, counted from its dataset before the harness is loaded.

Items are counted in local files, or in the cache of `datasets` for a dataset of the Hub. The
questions of the first items are written out as the task's templates say; no code of a task runs.
"""

import ast
import dataclasses
import functools
import os
import re
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdel_assets.errors import TaskError
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.tasks.bundled_tasks import likely_files
from mdel_assets.tasks.dataset_files import count_records, files_in_cache
from mdel_assets.tasks.own_tasks import FUNCTION, OwnTask, listed_members, read_task

if TYPE_CHECKING:
    from jinja2 import Template

_SAMPLED_ITEMS = 200
# As in the harness: what a model may write, where the task does not say; what lies between a solved
# example's question and answer, and behind it; metrics whose errors take a bootstrap.
_MOST_WRITTEN, _BETWEEN_EXAMPLES = 256, 3
_BOOTSTRAPPED = frozenset({"median", "mcc", "f1", "perplexity", "nanmean"})


@dataclasses.dataclass(frozen=True)
class TaskSize:
    """What a task asks of a model.

    Of each of ``num_items`` items the model reads ``num_passes`` texts of ``bytes_per_pass`` bytes,
    and then writes ``num_written`` tokens at most. A text that is longer than what the model reads
    at once is cut; one that ``is_rolling`` is read whole, window by window. The errors of
    ``num_bootstrapped`` of ``num_metrics`` take a bootstrap.
    """

    num_items: float
    num_passes: float
    bytes_per_pass: float
    num_written: float
    num_metrics: int
    num_bootstrapped: int
    is_rolling: bool = False


def task_sizes(
    name: str, own: Mapping[str, OwnTask], evaluation: Evaluation, *, cache: Path | None = None
) -> list[TaskSize]:
    """Return what the task, or each task of the group or tag, that is called ``name`` asks for.

    ``own`` are the experiment's own tasks; ``cache`` is that of `datasets`, by default the user's.

    Raises:
        TaskError: that is not known before the harness is loaded; the message says why.

    """
    found, called = [], name
    try:
        for task in _tasks_called(name, own, ()):
            called = task.name
            found.append(_size_of(task, evaluation, cache or datasets_cache()))
    except TaskError:
        raise
    except Exception as error:
        # A task's own files and templates fail in any way.
        told = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise TaskError(
            f"the items of task '{called}' cannot be counted beforehand ({told})"
        ) from error
    return found


def datasets_cache() -> Path:
    """Return the folder in which `datasets` keeps what it loaded."""
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME) / "datasets").expanduser()


def _tasks_called(
    name: str, own: Mapping[str, OwnTask], above: tuple[str, ...]
) -> Iterator[OwnTask]:
    """Yield the tasks that ``name`` stands for: itself, or those of a group or a tag."""
    if name in above:
        raise TaskError(f"group '{name}' holds itself")
    found = [own[name]] if name in own else [t for t in own.values() if name in t.tags]
    if not found:
        bundled = [read_task(path) for path in likely_files().get(name, ())]
        found = [task for task in bundled if task and (task.name == name or name in task.tags)]
    if not found:
        raise TaskError(f"where '{name}' is defined is known only once the harness is loaded")
    for task in found:
        if task.is_group:
            for member in listed_members(task.content):
                yield from _tasks_called(member, own, (*above, name))
        else:
            yield task


def _size_of(task: OwnTask, evaluation: Evaluation, cache: Path) -> TaskSize:
    content = task.content
    if content.get("process_docs"):
        raise TaskError(f"code makes the items of task '{task.name}' of its dataset")
    count, rows = _counted(task, cache)
    if not rows:
        raise TaskError(f"the dataset of task '{task.name}' has no items")
    shapes = [_shape(content, row) for row in rows]
    is_rolling = content.get("output_type") == "loglikelihood_rolling"
    of_task = content.get("num_fewshot")
    num_fewshot = int(of_task or 0) if evaluation.num_fewshot is None else evaluation.num_fewshot
    if is_rolling or of_task == 0:
        # The harness puts no solved examples before such a text, nor where a task itself says 0.
        num_fewshot = 0
    own = statistics.mean(shape.num_bytes for shape in shapes)
    metrics = [each.get("aggregation") for each in content.get("metric_list") or ()]
    return TaskSize(
        num_items=float(min(count, evaluation.task_documents or count)),
        num_passes=statistics.mean(shape.num_passes for shape in shapes),
        bytes_per_pass=own + num_fewshot * (own + _BETWEEN_EXAMPLES),
        num_written=float(max(shape.num_written for shape in shapes)),
        num_metrics=max(1, len(metrics)),
        num_bootstrapped=sum(name in _BOOTSTRAPPED for name in metrics),
        is_rolling=is_rolling,
    )


@dataclasses.dataclass(frozen=True)
class _Shape:
    num_passes: int
    num_bytes: float
    num_written: int = 0


def _shape(content: Mapping[str, Any], row: Mapping[str, Any]) -> _Shape:
    """Return how often the model reads how much of one item, and what it writes."""
    kind = content.get("output_type")
    if kind == "multiple_choice":
        choices = _filled(content["doc_to_choice"], row)
        choices = ast.literal_eval(choices) if isinstance(choices, str) else choices
        choices = list(choices.values()) if isinstance(choices, Mapping) else choices
        question = _filled(content["doc_to_text"], row)
        if not isinstance(question, str) or question.isdigit():
            raise TaskError("its choices stand in the question")
        longest = statistics.mean(len(str(choice).encode()) for choice in choices)
        # Letters, as single tokens, are read off one pass.
        is_one_pass = all(len(str(choice).strip()) == 1 for choice in choices)
        num_bytes = len(question.encode()) + 1 + longest
        return _Shape(1 if is_one_pass else len(choices), num_bytes)
    if kind == "generate_until":
        written = (content.get("generation_kwargs") or {}).get("max_gen_toks", _MOST_WRITTEN)
        return _Shape(1, _length(content["doc_to_text"], row), int(written))
    target = _length(content["doc_to_target"], row)
    if kind == "loglikelihood_rolling":
        return _Shape(1, target)
    if kind != "loglikelihood":
        raise TaskError(f"its output_type '{kind}' is not one that is counted")
    return _Shape(1, _length(content["doc_to_text"], row) + target)


def _length(template: Any, row: Mapping[str, Any]) -> float:
    return float(len(str(_filled(template, row)).encode()))


def _filled(template: Any, row: Mapping[str, Any]) -> Any:
    """Return a template with an item's values, or the value of the item that it names."""
    import jinja2

    if not isinstance(template, str):
        return template
    if template.startswith(FUNCTION):
        raise TaskError(f"code writes its questions ({template})")
    if template in row:
        return row[template]
    try:
        return _compiled(template).render(**row)
    except jinja2.TemplateError as error:
        raise TaskError(f"its template '{template}' does not fit its dataset: {error}") from error


@functools.lru_cache
def _compiled(template: str) -> "Template":
    import jinja2
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["regex_replace"] = _replaced
    return environment.from_string(template)


def _replaced(text: str, pattern: str, new: str, count: int = 0) -> str:
    return re.sub(pattern, new, text, count=count)


def _counted(task: OwnTask, cache: Path) -> tuple[int, list[dict[str, Any]]]:
    """Return how many items a task's split has, and the first of them."""
    split = task.content.get("test_split") or task.content.get("validation_split")
    if not split:
        raise TaskError(f"task '{task.name}' names neither test_split nor validation_split")
    files = task.files_of_split(split)
    if files is None:
        dataset = str(task.content.get("dataset_path") or "")
        files = files_in_cache(cache, dataset, task.content.get("dataset_name"), split=split)
        if not files:
            raise TaskError(
                f"the dataset of task '{task.name}' ({task.dataset}) is not here yet; a run "
                f"fetches it"
            )
    if not files:
        raise TaskError(
            f"the dataset of task '{task.name}' ({task.dataset}): which of its files are split "
            f"'{split}' is not known beforehand"
        )
    total, rows = 0, list[dict[str, Any]]()
    for path in files:
        count, first = count_records(path, num_first=_SAMPLED_ITEMS)
        total += count
        rows += first
    return total, rows[:_SAMPLED_ITEMS]
