"""The prices of tasks, and of comparing their results."""

import math
import os

from mdel_assets.evaluation.judged_models import JudgedModel, judged_model
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.generation.prices import seconds_to_load, seconds_to_write
from mdel_assets.line.price import Pace, Price
from mdel_assets.tasks.harness import BATCH_TOKENS, MAX_BATCH
from mdel_assets.tasks.own_tasks import own_tasks_of
from mdel_assets.tasks.task_sizes import TaskSize, task_sizes
from mdel_assets.training.sizes import Sizes

# Loading the harness with its own tasks, once for all models; a request, without its forward pass.
_SECONDS_TO_LOAD_HARNESS, _SECONDS_PER_REQUEST = 15.0, 1e-3
# The harness's bootstrap: its samples, and the seconds that it draws one item of one in.
_NUM_SAMPLES, _SECONDS_PER_DRAW = 100_000, 1.6e-7
# A record, and a figure with its error.
_RECORD_BYTES, _BYTES_PER_METRIC = 1_200.0, 240.0


def of_results(sizes: Sizes, key: str) -> Price:
    """Return the price of one model's results of all tasks that the experiment names.

    Raises:
        TaskError: how many items a task has is not known beforehand.

    """
    from mdel_assets.training.model_files import num_positions

    experiment, judged = sizes.experiment, judged_model(sizes, key)
    asked, are_own = sizes.once("tasks", lambda: _asked(experiment))
    positions = num_positions(judged.model.config) or BATCH_TOKENS
    rows = min(MAX_BATCH, max(1, BATCH_TOKENS // positions))
    num_tokens = operations = seconds = longest = 0.0
    for size in asked:
        whole = size.bytes_per_pass * judged.tokens_per_byte
        length = min(whole, float(positions))
        num_requests = size.num_items * size.num_passes
        if size.is_rolling:
            # As in the harness, the last window is filled with what stands before it.
            num_requests *= max(1, math.ceil(whole / positions))
        num_tokens += num_requests * length + size.num_items * size.num_written
        operations += judged.forward(num_requests * length, length=max(2, round(length)))
        seconds += _SECONDS_PER_REQUEST * num_requests + _other_seconds(size, judged, rows)
        longest = max(longest, length)
    if not are_own:
        seconds += _SECONDS_TO_LOAD_HARNESS / len(experiment.model_keys)
    # Logits, and their logarithms.
    logits = 2 * 4.0 * rows * longest * judged.model.vocab_rows
    return Price(
        num_tokens=num_tokens,
        operations=operations,
        disk_bytes=_RECORD_BYTES + _BYTES_PER_METRIC * sum(size.num_metrics for size in asked),
        memory_bytes=4.0 * judged.num_parameters + logits,
        core_seconds=seconds_to_load(judged.num_parameters) + seconds,
        pace=Pace("scoring", max(2, round(longest)), experiment.evaluation.dtype),
        config=judged.config,
    )


def _asked(experiment: Experiment) -> tuple[list[TaskSize], bool]:
    """Return what all tasks ask for, and whether all are the experiment's own."""
    own, names = own_tasks_of(experiment), experiment.evaluation.tasks
    asked = [each for name in names for each in task_sizes(name, own, experiment.evaluation)]
    return asked, own.keys() >= set(names)


def _other_seconds(size: TaskSize, judged: JudgedModel, rows: int) -> float:
    """Return the seconds of writing answers, and of bootstraps, which take all cores."""
    drawn = size.num_bootstrapped * size.num_items * _NUM_SAMPLES * _SECONDS_PER_DRAW
    written = 0.0
    if size.num_written:
        written = seconds_to_write(
            size.num_items,
            size.num_written,
            num_read_weights=judged.forward(1, length=2) / 2,
            vocab_rows=judged.model.vocab_rows,
            at_once=rows,
        )
    return written + drawn / (os.cpu_count() or 1)


def of_table(sizes: Sizes, key: str) -> Price:
    """Return the price of the table and its chart."""
    return Price(disk_bytes=100_000.0, core_seconds=1.5)
