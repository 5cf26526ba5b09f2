"""The curves of a training, from its log, and the W&B run that shows them live.

A curve's name says what it measures: ``loss``, ``learning_rate``, ``grad_norm``,
``tokens_per_second``, ``loss/validation_domain`` and ``loss/validation_pile``.
"""

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from mdel_assets.machine.processes import is_first_process
from mdel_assets.store.durable_files import write_text_atomically
from mdel_assets.tracking import Tracker, going_on_without

Curves = dict[str, list[tuple[float, float]]]
_EVALUATED = "eval_"
_SHOWN = ("loss", "learning_rate", "grad_norm", "tokens_per_second")
_RUN_ID_NAME = "wandb_run_id"


def curves_of(log: Sequence[Mapping[str, Any]]) -> Curves:
    """Return (step, value) points by curve from the Trainer's log history."""
    found: Curves = {}
    for entry in log:
        for name, value in shown_values(entry).items():
            found.setdefault(name, []).append((entry["step"], value))
    return found


def shown_values(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return the value of each curve in one entry of the log."""
    found = {name: float(entry[name]) for name in _SHOWN if name in entry}
    for name, value in entry.items():
        if name.startswith(_EVALUATED) and name.endswith("_loss"):
            split = name.removeprefix(_EVALUATED).removesuffix("_loss")
            found[f"loss/{split}"] = float(value)
    return found


class LogToRun(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Sends every entry of the log to a W&B run.

    A resumed training first sends the entries in its checkpoint, because W&B may have lost the last
    ones of a killed process.
    """

    def __init__(self, run: Any) -> None:
        self.run = run

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Log the entries before the checkpoint that the run does not have."""
        with going_on_without("log the steps before the checkpoint"):
            for entry in state.log_history:
                if entry["step"] >= self.run.step and (values := shown_values(entry)):
                    self.run.log(values, step=entry["step"])

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        """Log the values of this step."""
        if values := shown_values(logs or {}):
            with going_on_without(f"log step {state.global_step}"):
                self.run.log(values, step=state.global_step)


@contextlib.contextmanager
def tracked_run(
    tracker: Tracker | None,
    name: str,
    *,
    tags: Sequence[str],
    config: Mapping[str, Any],
    work_folder: Path,
) -> Iterator[Any | None]:
    """Open the W&B run of a training; a resumed training continues the same run.

    The run's id is stored with the checkpoints and removed with them.
    """
    if tracker is None or not is_first_process():
        yield None
        return
    path = work_folder / _RUN_ID_NAME
    if not path.exists():
        write_text_atomically(path, f"{name}-{secrets.token_hex(4)}")
    run_id = path.read_text("utf-8")
    with tracker.run(name, run_id=run_id, job_type="training", tags=tags, config=config) as run:
        yield run
