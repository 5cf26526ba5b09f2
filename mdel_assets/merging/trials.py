"""Trials of a search: each is a set of weights and its score, appended to a file."""

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

TRIALS_NAME = "trials.jsonl"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One scored model.

    ``origin`` is the origin of its weights: a starting point's name, ``step`` (one weight of the
    best trial moved) or ``surrogate``. ``weights`` are flat, one group of layers after another.
    ``bits_per_byte`` is the mean over ``domains``; infinite (null in the file) if the model gave no
    finite probabilities.
    """

    number: int
    origin: str
    weights: tuple[float, ...]
    bits_per_byte: float
    domains: Mapping[str, float]


class TrialLog:
    """An append-only file of trials, whose content survives a kill.

    An incomplete last line is dropped when the file is opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._trials = read_trials(path) if path.exists() else []
        # Trials are appended only after whole lines.
        whole = "".join(_line(trial) for trial in self._trials)
        if path.exists() and path.stat().st_size != len(whole.encode()):
            os.truncate(path, len(whole.encode()))

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)

    def append(self, trial: Trial) -> None:
        """Add a trial, on disk before this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(trial))
            file.flush()
            os.fsync(file.fileno())
        self._trials.append(trial)


def read_trials(path: Path) -> list[Trial]:
    """Return the trials of a file, without an incomplete last line."""
    lines = path.read_text("utf-8").splitlines(keepends=True)
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [
        Trial(
            **row
            | {
                "weights": tuple(row["weights"]),
                "bits_per_byte": math.inf if row["bits_per_byte"] is None else row["bits_per_byte"],
            }
        )
        for row in rows
    ]


def _line(trial: Trial) -> str:
    row = dataclasses.asdict(trial)
    if math.isinf(trial.bits_per_byte):
        row["bits_per_byte"] = None
    return json.dumps(row, allow_nan=False) + "\n"
