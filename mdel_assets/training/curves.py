"""The curves of a training: what its log says, step by step, and the W&B run that shows them live.

A curve's name is what it measures: ``loss``, ``learning_rate``, ``grad_norm``,
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
    """Return what one entry of the log says for each curve."""
    found = {name: float(entry[name]) for name in _SHOWN if name in entry}
    for name, value in entry.items():
        if name.startswith(_EVALUATED) and name.endswith("_loss"):
            split = name.removeprefix(_EVALUATED).removesuffix("_loss")
            found[f"loss/{split}"] = float(value)
    return found


class LogToRun(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Sends every entry of the log to a W&B run.

    A training that goes on begins with what its checkpoint remembers: of a process that was killed,
    W&B may have lost what was on its way.
    """

    def __init__(self, run: Any) -> None:
        self.run = run

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Log what was logged before the checkpoint, as far as the run does not have it."""
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
    """Open the W&B run of a training, the same one when the training goes on after a stop.

    Its id lies beside the checkpoints and lives as long as they do.
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
