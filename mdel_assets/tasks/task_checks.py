"""What can be known to be wrong with an experiment's tasks before any of them is run."""

from collections.abc import Iterator

from mdel_assets.errors import TaskError, unknown_name_message
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.tasks.bundled_tasks import (
    NOT_INSTALLED,
    harness_version,
    is_bundled,
    likely_names,
)
from mdel_assets.tasks.own_tasks import OwnTask, own_tasks_of


def mistakes_of_tasks(experiment: Experiment) -> Iterator[str]:
    """Yield why tasks cannot be run: names, the folder of own tasks, missing data files."""
    tasks = experiment.evaluation.tasks
    try:
        own = own_tasks_of(experiment)
    except TaskError as error:
        yield str(error)
        return
    if not tasks:
        return
    if harness_version() is None:
        yield NOT_INSTALLED
        return
    tags = {tag for task in own.values() for tag in task.tags}
    for name in tasks:
        if name in own:
            yield from _missing_data(own[name])
        elif name not in tags and not is_bundled(name):
            known = [*own, *tags, *sorted(likely_names())]
            yield f"evaluation.tasks: {unknown_name_message('task', name, known)}"


def notes_on_tasks(experiment: Experiment) -> list[str]:
    """Return what was not checked of tasks."""
    try:
        own = own_tasks_of(experiment)
    except TaskError:
        return []
    tasks = experiment.evaluation.tasks
    remote = [name for name in tasks if not (name in own and own[name].files())]
    return [f"evaluation.tasks: the datasets of {', '.join(remote)} were not checked"] * bool(
        remote
    )


def _missing_data(task: OwnTask) -> Iterator[str]:
    for path in task.missing_files():
        yield (
            f"evaluation.tasks: the dataset of the task '{task.name}', {path}, cannot be had: "
            f"there is no such file. Put it there, or correct `dataset_kwargs` in {task.path}; "
            f"relative paths start at that file's folder"
        )
