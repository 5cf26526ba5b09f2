"""Runs tasks of lm-evaluation-harness on a model: the harness's own tasks and evaluator.

`Harness` loads each task with its dataset once, for all models of a run. A model is loaded once
for all its tasks, and only if a task has to be run.
"""

import contextlib
import dataclasses
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdel_assets.errors import TaskError, unknown_name_message
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.tasks.own_tasks import OwnTask, listed_members
from mdel_assets.tasks.refusals import why_not_loaded, why_not_run
from mdel_assets.tasks.results import TaskResult

_log = logging.getLogger(__name__)
# On a processor; a GPU takes as many at a time as fit, up to a limit.
BATCH_TOKENS, MAX_BATCH = 8192, 64


class Harness:
    """The harness's tasks by name, of an experiment's ``evaluation`` and its ``own`` tasks."""

    def __init__(self, evaluation: Evaluation, own: Mapping[str, OwnTask]) -> None:
        self._evaluation = evaluation
        self._own = own
        self._manager: Any = None
        self._loaded: dict[str, Any] = {}
        self._refused: dict[str, TaskError] = {}

    def load(self, name: str) -> None:
        """Load a task with its dataset, if that was not done before.

        Raises:
            TaskError: its dataset, or the task itself, cannot be had.

        """
        if name in self._refused:
            raise self._refused[name]
        if name in self._loaded:
            return
        with _quiet():
            index = self._tasks().task_index
        if name not in index:
            raise TaskError(f"evaluation.tasks: {unknown_name_message('task', name, index)}")
        try:
            with _quiet():
                self._write_out_places(name, set())
                self._loaded[name] = self._tasks().load([name])
        except Exception as error:
            own = self._own.get(name)
            told = why_not_loaded(name, error, own, own.dataset if own else self._dataset_of(name))
            self._refused[name] = TaskError(told)
            raise self._refused[name] from error

    def run(
        self, folder: Path, names: Sequence[str]
    ) -> Iterator[tuple[str, TaskResult | TaskError]]:
        """Run tasks that were loaded on the model in ``folder``, each as soon as the last is done.

        Raises:
            MdelError: the model cannot be loaded.

        """
        model = self._model(folder)
        for name in names:
            try:
                with _quiet():
                    found = self._evaluate(model, name)
            except Exception as error:  # noqa: BLE001  (a task's own code fails in any way)
                yield name, TaskError(why_not_run(name, folder, error))
                continue
            result = TaskResult.of(name, found)
            _log.info("%s on %s: %s", name, folder.name, _in_words(result))
            yield name, result

    def _evaluate(self, model: Any, name: str) -> Mapping[str, Any]:
        from lm_eval import simple_evaluate

        seed, loaded = self._evaluation.seed, self._loaded[name]
        group = loaded.get("groups", {}).get(name)
        chosen = [group] if group else list(loaded["tasks"].values())
        found: Mapping[str, Any] = simple_evaluate(
            model=model,
            tasks=chosen,
            task_manager=self._tasks(),
            num_fewshot=self._evaluation.num_fewshot,
            limit=self._evaluation.task_documents,
            log_samples=False,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
        return found

    def _model(self, folder: Path) -> Any:
        """Return the harness's model around that of a folder, in fp32."""
        import torch

        from mdel_assets.training.model_files import load_model, load_tokenizer, num_positions

        has_gpu = torch.cuda.is_available()
        device = "cuda" if has_gpu else "cpu"
        loaded = load_model(folder, dtype="float32").to(device)
        length = num_positions(loaded.config) or BATCH_TOKENS
        on_processor = min(MAX_BATCH, max(1, BATCH_TOKENS // length))
        is_half = self._evaluation.dtype == "bfloat16"
        with _quiet():
            from lm_eval.models.huggingface import HFLM

            return HFLM(
                pretrained=loaded,
                tokenizer=load_tokenizer(folder),
                device=device,
                batch_size="auto" if has_gpu else on_processor,
                max_batch_size=MAX_BATCH,
                mixed_precision_dtype="bfloat16" if is_half else None,
            )

    def _tasks(self) -> Any:
        """Return the harness's index of tasks; its own tasks are left out where none is asked for.

        Reading all of those takes a quarter of a minute.
        """
        from lm_eval.tasks import TaskManager

        if self._manager is None:
            own = {name for name, task in self._own.items() if not task.is_group}
            folders = {task.path.parent for task in self._own.values()}
            self._manager = TaskManager(
                include_path=[str(folder) for folder in sorted(folders)],
                include_defaults=not own.issuperset(self._evaluation.tasks),
            )
        return self._manager

    def _write_out_places(self, name: str, seen: set[str]) -> None:
        """Write out the local places of an own task, or of those in a group or a tag.

        This runs the Python code that the tasks' functions are in, so it leaves all others alone.
        """
        from lm_eval.tasks._yaml_loader import load_yaml

        index = self._tasks().task_index
        if name in seen or name not in index:
            return
        seen.add(name)
        entry, task = index[name], self._own.get(name)
        if task and not task.is_group and entry.yaml_path:
            content = task.with_whole_paths(load_yaml(task.path))
            index[name] = dataclasses.replace(entry, yaml_path=None, cfg=content)
            return
        for member in _members(entry):
            self._write_out_places(member, seen)

    def _dataset_of(self, name: str) -> str:
        entry = self._manager.task_index.get(name) if self._manager else None
        content = (entry.cfg if entry else None) or {}
        words = [content.get("dataset_path"), content.get("dataset_name")]
        return ", ".join(str(word) for word in words if word) or "of its tasks"


def _members(entry: Any) -> Iterator[str]:
    """Yield the names in an entry of the harness's index that is a group or a tag."""
    if entry.kind.name == "TAG":
        yield from sorted(entry.tags)
    elif entry.kind.name == "GROUP":
        yield from listed_members(entry.cfg)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness's bars, prints and warnings from the event log."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _in_words(result: TaskResult) -> str:
    return ", ".join(
        f"{figure.metric} {figure.value:.4f}"
        + (f" ± {figure.error:.4f}" if figure.error is not None else "")
        for figure in result.main
    )
